"""What a video file is like: container, codec, size, rate, colours, orientation, streams; and what of it is unusual."""

import dataclasses
import pathlib
from collections.abc import Sequence

from hbi_jax.data import colour
from hbi_jax.data.decode import TIMEOUT, OpenVideo
from hbi_jax.data.picture import pixel_aspect, square_size, turn
from hbi_jax.data.timeline import Timeline

# Rates that differ by less than this share are one.
_SAME_RATE = 0.01
# Seconds by which pictures may start later than sound without being noticed.
_NOTICED = 0.2


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a video file is like.

    Attributes:
      container, codec: FFmpeg's names; a container has several names, separated by commas.
      width, height: Of the pictures as they are stored, in pixels.
      frames: How many pictures are shown.
      seconds: When the last one ends, from the beginning of the presentation.
      starts: When the first one is shown, in seconds.
      stated_rate, measured_rate: Frames a second, of the header and of the pictures' times; `None` where nothing tells.
      variable: Whether the pictures are shown for different times.
      hdr: "HLG", "PQ" or "BT.2020" (an ordinary curve in wide-gamut colours), which are mapped; otherwise empty.
      rotation: By how many degrees the stored picture is turned counter-clockwise to be shown; `None` for other than
        right angles, which are not turned.
      mirrored: Whether left and right are exchanged before that.
      pixel_aspect: Width of a pixel over its height, as "16:11".
      streams: All streams; the first is the one that is read.
    """

    container: str
    codec: str
    width: int
    height: int
    frames: int
    seconds: float
    starts: float
    stated_rate: float | None
    measured_rate: float | None
    variable: bool
    hdr: str
    rotation: int | None
    mirrored: bool
    pixel_aspect: str
    streams: Sequence[str]

    def unusual(self) -> list[str]:
        """What sets it apart from a plain file, in words."""
        found, stated, measured = [], self.stated_rate, self.measured_rate
        if self.variable:
            found.append(f"its frame rate varies ({measured:.4g} a second on average)")
        if stated and measured and abs(stated - measured) > _SAME_RATE * measured and not self.variable:
            found.append(f"it states {stated:.4g} frames a second and has {measured:.4g}")
        if not stated:
            found.append("it states no frame rate")
        if self.starts > _NOTICED:
            found.append(f"its pictures start at {self.starts:.1f} s")
        if self.hdr:
            found.append(f"its colours ({self.hdr}) are mapped to those of an ordinary screen")
        if self.mirrored:
            found.append("it is shown mirrored")
        if self.rotation is None:
            found.append("it is to be turned by another than a right angle, and is not")
        elif self.rotation:
            found.append(f"it is shown turned by {self.rotation} degrees")
        if self.pixel_aspect != "1:1":
            found.append(f"its pixels are not square ({self.pixel_aspect})")
        videos = [stream for stream in self.streams if stream.startswith("video")]
        if len(videos) > 1:
            found.append(f"of its {len(videos)} video streams, {videos[0].removeprefix('video ')} is read")
        return found


def facts(path: str | pathlib.Path, timeout: float | int = TIMEOUT) -> tuple[Facts, Timeline]:
    """Reads what a file is like, and when its frames are shown.

    Args:
      path: The file.
      timeout: Processor time that it may take, in seconds; 0: any.

    Raises:
      VideoError: If it cannot be read.
    """
    with OpenVideo(path, timeout) as video:
        timeline, frame = video.timeline(), video.first_frame()
        stream = video.stream  # what was one before is gone: each reading opens the file again
        aspect, turned = pixel_aspect(stream.sample_aspect_ratio), turn(frame)
        if square_size(frame.width, frame.height, aspect) == (frame.width, frame.height):
            aspect = pixel_aspect(None)
        others = (other for other in stream.container.streams if other is not stream)
        found = Facts(
            container=stream.container.format.name,
            codec=stream.codec_context.name,
            width=frame.width,
            height=frame.height,
            frames=len(timeline.times),
            seconds=round(timeline.end, 3),
            starts=round(float(timeline.times[0]), 3),
            stated_rate=None if timeline.stated is None else round(timeline.stated, 4),
            measured_rate=None if timeline.measured is None else round(timeline.measured, 4),
            variable=not timeline.is_constant,
            hdr=_hdr(frame.color_trc, frame.color_primaries),
            rotation=None if turned is None else turned.degrees,
            mirrored=turned is not None and turned.mirrored,
            pixel_aspect=f"{aspect.numerator}:{aspect.denominator}",
            streams=[_named(other) for other in (stream, *others)],
        )
    return found, timeline


def _hdr(transfer: int, primaries: int) -> str:
    return colour.NAMES.get(transfer, "BT.2020" if colour.is_mapped(transfer, primaries) else "")


def _named(stream: object) -> str:
    context = stream.codec_context
    if context is None:
        return f"{stream.type} of an unknown codec"
    size = f" {context.width}x{context.height}" if stream.type == "video" else ""
    return f"{stream.type} {context.name}{size}"
