"""A page of results that needs nothing but a browser: cards with the video, its moment, and why it was found."""

import base64
import html
import io
import os
import pathlib
import urllib.parse
from collections.abc import Callable, Sequence

from PIL import Image

from hbi_jax.data.decode import VideoError
from hbi_jax.files import replace_file
from hbi_jax.search.clips import pictures
from hbi_jax.search.heatmap import heatmap
from hbi_jax.search.moments import Moment

# Long sides of pictures, in pixels.
_POSTER, _FRAME = 480, 112

STYLE = """
.moments { --more: #c62828; --less: #1565c0; --line: #8885; font: 15px/1.45 system-ui, sans-serif; }
.moments .card { border: 1px solid var(--line); border-radius: 10px; padding: 14px; margin: 14px 0; }
.moments .card h3 { font-size: 1rem; margin: 0 0 8px; overflow-wrap: anywhere; }
.moments .card .score { float: right; font-variant-numeric: tabular-nums; margin-left: 12px; opacity: .75; }
.moments .body { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start; }
.moments video, .moments img, .moments .broken { width: 320px; max-width: 100%; aspect-ratio: 4 / 3; background: #0002;
  border-radius: 6px; object-fit: contain; }
.moments .broken { display: grid; place-items: center; text-align: center; padding: 12px; box-sizing: border-box; }
.moments .why { overflow-x: auto; max-width: 100%; min-width: 0; }
.moments .heatmap { display: block; font: 12px system-ui, sans-serif; }
.moments .heatmap text { fill: currentColor; }
.moments .heatmap .more { fill: var(--more); }
.moments .heatmap .less { fill: var(--less); }
.moments .heatmap .hit { stroke: #8886; pointer-events: all; }
.moments .heatmap .best .hit { stroke: currentColor; stroke-width: 2; }
.moments .heatmap a { cursor: pointer; outline: none; }
.moments .heatmap a:hover .hit, .moments .heatmap a:focus-visible .hit { stroke: var(--more); stroke-width: 3; }
.moments .note { opacity: .75; margin: 6px 0 0; }
@media (prefers-color-scheme: dark) { .moments { --more: #ff6b5e; --less: #5ea8ff; } }
"""

# A frame of a heat map moves the video of its card. Without a script the link opens the video at that time.
SCRIPT = """
document.addEventListener('click', event => {
  const frame = event.target.closest('.moments a.frame');
  const video = frame && frame.closest('.card').querySelector('video');
  if (!video || video.error) return;
  event.preventDefault();
  const seek = () => { video.currentTime = Number(frame.dataset.time); };
  if (video.readyState) seek(); else { video.addEventListener('loadedmetadata', seek, {once: true}); video.load(); }
  video.play().catch(() => {});
});
document.addEventListener('error', event => {
  const video = event.target.closest && event.target.closest('.moments video');
  if (!video) return;
  const note = video.closest('.card').querySelector('.unplayable');
  if (note) note.hidden = false;
}, true);
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0 auto; padding: 16px; max-width: 1100px; font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.4rem; overflow-wrap: anywhere; }}
{style}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
{cards}
<script>{script}</script>
</body>
</html>
"""


def cards(moments: Sequence[Moment], address: Callable[[str], str]) -> str:
    """Returns the moments as HTML.

    Args:
      moments: The moments, the best first.
      address: Returns the address of a video file.
    """
    shown = (_card(number, moment, address(moment.video)) for number, moment in enumerate(moments, 1))
    return f'<div class="moments">{"".join(shown)}</div>'


def embedded_page(moments: Sequence[Moment], largest: int = 2**23) -> str:
    """Returns the moments as HTML for a notebook, which cannot reach files: small videos are part of it.

    Args:
      moments: The moments, the best first.
      largest: Size in bytes from which a video is left out; its frames are there.
    """

    def address(video: str) -> str:
        if not os.path.isfile(video) or os.path.getsize(video) > largest:
            return ""
        return f"data:video/mp4;base64,{base64.b64encode(pathlib.Path(video).read_bytes()).decode()}"

    return f"<style>{STYLE}</style>{cards(moments, address)}<script>{SCRIPT}</script>"


def write_page(path: str | os.PathLike[str], query: str, moments: Sequence[Moment], num_clips: int) -> None:
    """Writes a page that shows moments. The videos are not copied: the page leads to them by relative paths.

    Args:
      path: The file.
      query: What was asked.
      moments: The moments, the best first.
      num_clips: How many clips were searched.
    """
    target = pathlib.Path(path).expanduser().absolute()
    count = len(moments)
    found = f"The {count} best moments of {num_clips:,} clips." if count > 1 else "The best moment."
    how = (
        "Red cells: the word and the frame are worth more together than apart. A click on a frame, or the Enter key, "
        "plays the video from there."
    )
    page = _PAGE.format(
        title=_escaped(query),
        summary=f"{found} {how}" if count else "Nothing was found: the index holds no clips.",
        style=STYLE,
        script=SCRIPT,
        cards=cards(moments, lambda video: relative_address(video, target.parent)),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(target, page)


def relative_address(video: str, folder: pathlib.Path) -> str:
    """Returns the address of a file for a page in a folder."""
    return urllib.parse.quote(os.fsencode(os.path.relpath(video, folder)))


def _card(number: int, moment: Moment, address: str) -> str:
    name = _escaped(os.path.basename(moment.video))
    begin, end = moment.focus
    title = f"{number}. {name}, {_clock(begin)} to {_clock(end)}"
    where = _escaped(moment.video)
    heading = f'<h3 title="{where}"><span class="score">{moment.score:.3f}</span>{title}</h3>'

    def link(seconds: float) -> str:
        # A video that is part of the page is not repeated in every link.
        return "#" if not address or address.startswith("data:") else f"{address}#t={seconds:.3f}"

    times = moment.frames or (moment.start,)
    best = moment.best_frame or 0
    try:
        (poster,) = pictures(moment.video, [times[best]], _POSTER)
        frames = [_embedded(picture) for picture in pictures(moment.video, times, _FRAME)]
    except VideoError as error:
        reason = html.escape(f"{error.reason}: it was moved, removed or damaged after it was indexed")
        video, frames = f'<div class="broken" role="alert">cannot be shown ({reason})</div>', []
    else:
        video = _player(address, name, begin, moment.end, _embedded(poster))
    why = ""
    if moment.words:
        drawn = heatmap(moment.words, moment.frames, moment.interaction, link, frames, moment.best_frame)
        why = f'<div class="why" tabindex="0" role="region" aria-label="why {name} matches">{drawn}</div>'
    clip = f'<p class="note">clip {_clock(moment.start)} to {_clock(moment.end)}</p>'
    return f'<section class="card">{heading}<div class="body">{video}{why}</div>{clip}</section>'


def _player(address: str, name: str, begin: float, end: float, poster: str) -> str:
    """Returns a video that plays a moment, or its poster if the video has no address."""
    if not address:
        return f'<img src="{poster}" alt="{name} at {begin:.1f} seconds">'
    source = html.escape(f"{address}#t={begin:.3f},{end:.3f}")
    return (
        f'<div><video controls muted playsinline preload="metadata" poster="{poster}" src="{source}" '
        f'aria-label="{name} from {begin:.1f} seconds"></video>'
        '<p class="note unplayable" hidden>This browser cannot play the file; its frames are beside it.</p></div>'
    )


def _escaped(text: str) -> str:
    """Returns a text for HTML; what is not Unicode, as names of files may be, is written in hexadecimal."""
    return html.escape(text.encode(errors="backslashreplace").decode())


def _clock(seconds: float) -> str:
    """Returns a time as `0:07.5`, or `1:02:03.4` from one hour on."""
    tenths = round(10 * seconds)
    whole, tenth = divmod(tenths, 10)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}.{tenth}"
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}.{tenth}"


def _embedded(picture: Image.Image) -> str:
    """Returns a picture as an address that holds it."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
