"""The page over HTTP: what it sends, what it refuses, and what its functions return."""

import re
import sys

import numpy as np
import pytest

import hbi_jax
from hbi_jax.search import serve
from hbi_jax.search.config import SearchError
from hbi_jax.search.serve import Settings, make_app
from tests.search.conftest import make_index

MISSING = "the extra `demo` is not installed"
TEXT = "a red square slides left"


@pytest.fixture(scope="module")
def served(rendered, encoder, tmp_path_factory):
    """An index, and a client of its page on this machine."""
    pytest.importorskip("gradio", reason=MISSING)
    client_of = pytest.importorskip("fastapi.testclient", reason=MISSING).TestClient

    with make_index(tmp_path_factory.mktemp("served") / "my.index", encoder) as index:
        index.add(rendered)
        with client_of(make_app(index, Settings()), base_url="http://127.0.0.1:7860") as client:
            yield index, client


def call(client, name, *data, end="complete"):
    """Calls a function of the page as its script does; returns what it shows."""
    event = client.post(f"/gradio_api/call/{name}", json={"data": list(data)}).json()["event_id"]
    text = client.get(f"/gradio_api/call/{name}/{event}").text
    assert f"event: {end}" in text, text
    return text.encode().decode("unicode_escape")


def file_at(path):
    """A file as a page names it to the server."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def test_the_page_is_there_and_sends_nothing_elsewhere(served):
    index, client = served
    page = client.get("/")
    assert page.status_code == 200
    assert f"{index.num_clips:,} clips in `my.index`" in page.text
    assert not re.findall(r'<script[^>]+src="https?://', page.text)


def test_a_search_shows_cards_whose_videos_are_sent_in_parts(served):
    index, client = served
    shown = call(client, "search", TEXT, 3)
    assert shown.count('<section class="card">') == 3
    best = index.search(TEXT, top=1)[0]
    address = re.search(r"/videos/\w{32}", shown)[0]
    with open(best.video, "rb") as file:
        content = file.read()
    part = client.get(address, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, content[100:200])
    assert client.get(address).content == content
    assert "Write what to find" in call(client, "search", " ", 3)
    assert "Choose a video first" in call(client, "like", None, 3)


@pytest.mark.parametrize(
    "address",
    [
        "/videos/absent",
        "/videos/..%2F..%2Fetc%2Fpasswd",
        "/videos/%2Fetc%2Fpasswd",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file={index}/index.json",
        "/gradio_api/file={video}",
    ],
)
def test_nothing_but_indexed_videos_is_sent(served, address):
    index, client = served
    address = address.format(index=index.folder, video=index.files[0].path)
    found = client.get(address)
    assert found.status_code in (403, 404)
    assert b"root:" not in found.content


@pytest.mark.parametrize("ours", [True, False])
def test_no_file_is_opened_that_nobody_uploaded(served, answered, captioned, tmp_path, monkeypatch, ours):
    """By any function that takes a file, or that can be sent one; Gradio's own check refuses files of this machine."""
    client_of = pytest.importorskip("fastapi.testclient", reason=MISSING).TestClient

    index, _ = served
    cache, told = tmp_path / "cache", "that was not uploaded to this page" if ours else "was not uploaded by a user"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(cache))
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"a secret")
    files = [file_at(secret), file_at(secret) | {"is_stream": True}, {"a": [{"path": "b"}, file_at(secret)]}]
    if ours:
        # What another program keeps in the same folder, and what another machine has.
        (cache / "other").mkdir(parents=True)
        (cache / "other" / "a.mp4").write_bytes(b"another secret")
        files += [file_at(cache / "other" / "a.mp4"), file_at("https://example.org/a.mp4")]
    else:
        monkeypatch.setattr(serve, "_named_files", lambda sent: ())
    before = sorted(cache.rglob("*"))
    settings = Settings(ask=str(answered), caption=str(captioned))
    with client_of(make_app(index, settings), base_url="http://127.0.0.1:7860") as client:
        taking = [each for each in client.get("/config").json()["dependencies"] if each["inputs"]]
        assert {each["api_name"] for each in taking} == {"search", "like", "ask", "caption"}
        for each in taking:
            for file in files:
                assert told in call(client, each["api_name"], *[file] * len(each["inputs"]), end="error")
    assert sorted(cache.rglob("*")) == before


def test_other_sites_cannot_use_the_page(served):
    _, client = served
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    for host in ("localhost:7860", "127.0.0.1:7860", "[::1]:7860"):
        assert client.get("/", headers={"Host": host}).status_code == 200


def test_uploads_are_bounded(served, rendered, encoder, tmp_path):
    pytest.importorskip("gradio", reason=MISSING)
    client_of = pytest.importorskip("fastapi.testclient", reason=MISSING).TestClient

    index, client = served
    sent = client.post("/gradio_api/upload", files={"files": ("long.mp4", (rendered / "long.mp4").read_bytes())})
    (path,) = sent.json()
    shown = call(client, "like", file_at(path), 1)
    (moment,) = index.search_like(rendered / "long.mp4", top=1)
    assert f'<span class="score">{moment.score:.3f}</span>' in shown
    with client_of(make_app(index, Settings(upload_megabytes=1)), base_url="http://localhost") as small:
        refused = small.post("/gradio_api/upload", files={"files": ("big.mp4", np.zeros(2**21, np.uint8).tobytes())})
    assert refused.status_code == 413


def test_without_gradio_the_remedy_is_told(encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with (
        make_index(tmp_path / "my.index", encoder) as index,
        pytest.raises(SearchError, match=r"the page needs Gradio .*; pip install 'hbi_jax\[demo\]', or write a page"),
    ):
        make_app(index, Settings())


def test_runs_that_answer_and_caption_have_their_tabs(answered, captioned, world, encoder, tmp_path):
    pytest.importorskip("gradio", reason=MISSING)
    client_of = pytest.importorskip("fastapi.testclient", reason=MISSING).TestClient

    video, question = min((world / "videos").glob("*.mp4")), "what happens first?"
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    settings = Settings(ask=str(answered), caption=str(captioned))
    with (
        make_index(tmp_path / "my.index", encoder) as index,
        client_of(make_app(index, settings), base_url="http://127.0.0.1:7860") as client,
    ):
        page = client.get("/").text
        assert '"label":"Ask"' in page
        assert '"label":"Caption"' in page
        (sent, bad) = client.post(
            "/gradio_api/upload", files=[("files", (path.name, path.read_bytes())) for path in (video, broken)]
        ).json()
        good, unreadable = map(file_at, (sent, bad))
        (answer,) = hbi_jax.answer_questions(str(answered), video, question)
        said = call(client, "ask", good, question)
        assert all(
            f"{text} ({100 * share:.1f} %)" in said
            for text, share in zip(answer.answers, answer.probabilities, strict=True)
        )
        (made,) = hbi_jax.generate_captions(str(captioned), video)
        assert made.captions[0] in call(client, "caption", good)
        assert "Choose a video, and write a question" in call(client, "ask", good, " ")
        for told in (call(client, "caption", unreadable), call(client, "ask", unreadable, question)):
            assert "broken.mp4: " in told
            assert bad not in told
        assert bad not in call(client, "like", unreadable, 1)
