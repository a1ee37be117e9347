"""The page: search an index in a browser, by text or by a video; ask about and caption what was found.

Needs the extra `demo` (Gradio). Videos are sent only if they are in the index, by a key that does not contain their
path, so nothing else on the disk can be fetched. Files are read only if they were uploaded, or are in the index.
"""

import dataclasses
import hashlib
import html
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hbi_jax.data.datasets.videos import EXTENSIONS
from hbi_jax.search.config import SearchError
from hbi_jax.search.index import Index
from hbi_jax.search.moments import Moment
from hbi_jax.search.page import SCRIPT, STYLE, cards
from hbi_jax.tasks.answers.inference import answer_questions
from hbi_jax.tasks.captions.inference import generate_captions
from hbi_jax.tasks.inference import Run, open_run

if TYPE_CHECKING:
    import fastapi
    import gradio

# Addresses that only this machine can reach.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MOST = 50
# Of an uploaded video on the page, in pixels, so that the button and the result are in sight.
_HEIGHT = 320
_STYLE = STYLE + "\n.said { padding: 12px 4px; }"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the page is served.

    Attributes:
      host, port: Where it listens. Hosts other than `LOOPBACK` let other machines in.
      upload_megabytes: Largest video that may be uploaded.
      ask, caption: Work folders of a question answering and a captioning run, for their tabs; None: no such tab.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    upload_megabytes: int = 200
    ask: str | None = None
    caption: str | None = None


def serve(index: Index, settings: Settings) -> None:
    """Serves the page until it is interrupted.

    Raises:
      SearchError: If Gradio is not installed.
      CheckpointError: If a run cannot be opened.
    """
    app = make_app(index, settings)
    import uvicorn

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    print(f"search {index.folder} at http://{host}:{settings.port} (Ctrl-C ends it)", flush=True)
    uvicorn.run(app, host=settings.host, port=settings.port, log_level="warning")


def make_app(index: Index, settings: Settings) -> "fastapi.FastAPI":
    """Returns the web application.

    Raises:
      SearchError: If Gradio is not installed.
      CheckpointError: If a run cannot be opened.
    """
    # Read when Gradio is imported: nothing is sent anywhere.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import fastapi
        import gradio
        from fastapi.responses import FileResponse
        from starlette.middleware.trustedhost import TrustedHostMiddleware
    except ImportError as error:
        raise SearchError(
            f"the page needs Gradio ({error}); pip install 'hbi_jax[demo]', or write a page with find --html"
        ) from error
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if settings.host in LOOPBACK:
        # Other pages that a browser shows must not reach this one under a name of theirs.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])
    # An index may be of somebody else: what it names is sent only if it is named like a video.
    names = (file.path for file in index.files if file.error is None)
    videos = {_key(path): path for path in names if os.path.splitext(path)[1].lower() in EXTENSIONS}

    @app.get("/videos/{key}")
    def video(key: str) -> FileResponse:
        path = videos.get(key)
        if path is None or not os.path.isfile(path):
            raise fastapi.HTTPException(404, "no such video in the index")
        return FileResponse(path)

    runs = {
        task: open_run(folder, task)
        for task, folder in (("answers", settings.ask), ("captions", settings.caption))
        if folder
    }
    blocks = _blocks(index, runs)
    return gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=settings.host,
        server_port=settings.port,
        footer_links=[],
        max_file_size=f"{settings.upload_megabytes}mb",
        css=_STYLE,
        head=f"<script>{SCRIPT}</script>",
        ssr_mode=False,
        show_error=True,
    )


def _key(path: str) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:32]


def _blocks(index: Index, runs: dict[str, Run]) -> "gradio.Blocks":
    """Returns the page."""
    import gradio

    class Page(gradio.Blocks):
        """Takes no file but an upload. Gradio would open what a client names: a file here, or what is at an address."""

        async def preprocess_data(self, function: Any, inputs: Any, *others: Any, **named: Any) -> list[Any]:
            if not self.upload_file_set.issuperset(_named_files(inputs)):
                raise gradio.Error("got a file that was not uploaded to this page, wanted an upload; choose it again")
            return await super().preprocess_data(function, inputs, *others, **named)

    # A compiled program and its caches are used by one request at a time.
    turn = threading.Lock()

    def shown(find: Callable[[], Sequence[Moment]], upload: str = "") -> str:
        try:
            with turn:
                moments = find()
        except (ValueError, OSError) as error:
            return _refused(str(error), upload)
        if not moments:
            return _said("Nothing was found: the index holds no clips.")
        return cards(moments, lambda path: f"/videos/{_key(path)}")

    def by_text(text: str, top: int) -> str:
        if not (text or "").strip():
            return _said("Write what to find, such as: a red square slides left")
        return shown(lambda: index.search(text, int(top)))

    def by_video(path: str | None, top: int) -> str:
        if not path:
            return _said("Choose a video first.")
        return shown(lambda: index.search_like(path, int(top)), path)

    def by_address(request: gradio.Request) -> tuple[str, str]:
        """Searches for what the address asks, as in `/?q=a+red+square`: a search can be bookmarked and sent."""
        text = request.query_params.get("q", "")
        return text, by_text(text, 10) if text.strip() else ""

    with Page(title="Search videos", analytics_enabled=False, fill_width=True) as blocks:
        count = len({file.path for file in index.files if file.error is None})
        gradio.Markdown(f"# Search {count:,} videos\n{index.num_clips:,} clips in `{index.folder.name}`")
        with gradio.Tab("By text"):
            with gradio.Row():
                text = gradio.Textbox(
                    label="What to find", placeholder="a red square slides left", scale=4, autofocus=True
                )
                top = gradio.Slider(1, _MOST, value=10, step=1, label="Results", scale=1)
            button, found = gradio.Button("Search", variant="primary"), gradio.HTML()
            gradio.on([button.click, text.submit], by_text, [text, top], found, api_name="search")
            blocks.load(by_address, None, [text, found], api_name=False)
        with gradio.Tab("By a video"):
            like = gradio.Video(label="Find moments like this video", sources=["upload"], height=_HEIGHT)
            most = gradio.Slider(1, _MOST, value=10, step=1, label="Results")
            button, found = gradio.Button("Search", variant="primary"), gradio.HTML()
            button.click(by_video, [like, most], found, api_name="like")
        if "answers" in runs:
            _ask_tab(runs["answers"], turn)
        if "captions" in runs:
            _caption_tab(runs["captions"], turn)
    # Mounting a page leaves this out, without which Gradio's own check of files is off.
    blocks.has_launched = True
    return blocks


def _named_files(sent: Any) -> Iterator[Any]:
    """Yields the path of every file that a client names in what it sends, at any depth."""
    if isinstance(sent, Mapping):
        if "path" in sent:
            yield sent["path"]
        sent = list(sent.values())
    if isinstance(sent, list):
        for part in sent:
            yield from _named_files(part)


def _ask_tab(run: Run, turn: threading.Lock) -> None:
    import gradio

    def ask(path: str | None, question: str) -> str:
        if not path or not (question or "").strip():
            return _said("Choose a video, and write a question.")
        with turn:
            (answer,) = answer_questions(run, path, question)
        if answer.error:
            return _refused(answer.error, path)
        rows = zip(answer.answers, answer.probabilities, strict=True)
        return _said(*(f"{text} ({100 * probability:.1f} %)" for text, probability in rows))

    with gradio.Tab("Ask"):
        video = gradio.Video(label="Video", sources=["upload"], height=_HEIGHT)
        question = gradio.Textbox(label="Question", placeholder="what happens first?")
        button, said = gradio.Button("Ask", variant="primary"), gradio.HTML()
        gradio.on([button.click, question.submit], ask, [video, question], said, api_name="ask")


def _caption_tab(run: Run, turn: threading.Lock) -> None:
    import gradio

    def caption(path: str | None) -> str:
        if not path:
            return _said("Choose a video.")
        with turn:
            (made,) = generate_captions(run, path)
        return _refused(made.error, path) if made.error else _said(made.captions[0])

    with gradio.Tab("Caption"):
        video = gradio.Video(label="Video", sources=["upload"], height=_HEIGHT)
        button, said = gradio.Button("Caption", variant="primary"), gradio.HTML()
        button.click(caption, video, said, api_name="caption")


def _said(*lines: str) -> str:
    """Returns lines of text as HTML."""
    return f'<div class="said" role="status">{"<br>".join(map(html.escape, lines))}</div>'


def _refused(error: str, upload: str) -> str:
    """Returns an error as HTML; an uploaded file is called by its name, not by its place on this machine."""
    return _said(error.replace(upload, os.path.basename(upload)) if upload else error)
