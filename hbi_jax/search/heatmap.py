"""The interaction of words and frames as SVG: columns are frames, and links to their time."""

import html
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

# In pixels.
_CELL, _ROW, _LABEL, _HEAD, _CHARACTER = 56, 22, 8, 20, 7.2
# Labels longer than this many characters lose their end.
_LONGEST = 24


def heatmap(
    words: Sequence[str],
    times: Sequence[float],
    values: Float[np.ndarray, "w f"],
    link: Callable[[float], str],
    pictures: Sequence[str] = (),
    strongest: int | None = None,
) -> str:
    """Returns a heat map as SVG. Red: word and frame are worth more together than apart; blue: less.

    Args:
      words: The names of the rows.
      times: The times of the frames, in seconds.
      values: The interaction.
      link: Returns the address of a time of the video.
      pictures: The frames as addresses of pictures; none leaves them out.
      strongest: The number of the frame to mark.
    """
    names = [word if len(word) <= _LONGEST else f"{word[: _LONGEST - 1]}…" for word in words]
    left = _LABEL + round(_CHARACTER * max(map(len, names)))
    head = _HEAD + (_CELL if pictures else 0)
    width, height = left + _CELL * len(times), head + _ROW * len(words)
    limit = float(np.abs(values).max()) or 1.0
    parts = [
        f'<svg class="heatmap" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="group" '
        f'aria-label="interaction of words and frames">'
    ]
    for row, name in enumerate(names):
        y = head + _ROW * row + _ROW - 7
        parts.append(f'<text x="{left - _LABEL}" y="{y}" text-anchor="end">{html.escape(name)}</text>')
    for column, time in enumerate(times):
        x = left + _CELL * column
        best = " best" if column == strongest else ""
        label = f"jump to {time:.1f} s" + (", the strongest frame" if best else "")
        parts.append(
            f'<a href="{html.escape(link(time))}" class="frame{best}" data-time="{time:.3f}" aria-label="{label}">'
        )
        if pictures:
            parts.append(
                f'<image x="{x + 1}" y="0" width="{_CELL - 2}" height="{_CELL - 2}" '
                f'preserveAspectRatio="xMidYMid slice" href="{html.escape(pictures[column])}"/>'
            )
        parts.append(f'<text x="{x + _CELL / 2}" y="{head - 6}" text-anchor="middle">{time:.1f} s</text>')
        for row, word in enumerate(words):
            value = float(values[row, column])
            sign = "more" if value >= 0 else "less"
            title = f"{word}, {time:.1f} s: {value:+.4f}"
            parts.append(
                f'<rect class="{sign}" x="{x + 1}" y="{head + _ROW * row + 1}" width="{_CELL - 2}" height="{_ROW - 2}" '
                f'fill-opacity="{abs(value) / limit:.3f}"><title>{html.escape(title)}</title></rect>'
            )
        parts.append(f'<rect class="hit" x="{x + 1}" y="1" width="{_CELL - 2}" height="{height - 2}" fill="none"/></a>')
    return "".join([*parts, "</svg>"])
