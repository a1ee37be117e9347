"""Properties of a video file (container, codec, size, rate, colours, orientation, streams), and the unusual ones."""

import dataclasses
import pathlib
from collections.abc import Sequence

from hbi_jax.data import colour
from hbi_jax.data.decode import TIMEOUT, OpenVideo
from hbi_jax.data.picture import pixel_aspect, square_size, turn
from hbi_jax.data.timeline import Timeline

# Rates that differ by less than this share count as equal.
_SAME_RATE = 0.01
# Pictures may start this many seconds after the sound without being reported.
_NOTICED = 0.2


@dataclasses.dataclass(frozen=True)
class Facts:
    """The properties of a video file.

    Attributes:
      container, codec: FFmpeg's names; a container can have several names, separated by commas.
      width, height: Size of the stored pictures, in pixels.
      frames: Number of pictures that are shown.
      seconds: End of the last picture, in seconds from the beginning of the presentation.
      starts: Time at which the first picture is shown, in seconds.
      stated_rate, measured_rate: Frames per second by the header and by the times of the pictures; `None` if unknown.
      variable: Whether the frame rate varies.
      hdr: "HLG", "PQ" or "BT.2020" (an ordinary curve in wide-gamut colours) if colours are mapped; otherwise empty.
      rotation: Degrees by which a player turns the stored picture counter-clockwise; `None` for an angle that is not a
        multiple of 90 degrees, in which case the picture is not turned.
      mirrored: Whether left and right are swapped before the rotation.
      pixel_aspect: Width of a pixel over its height, such as "16:11".
      streams: Descriptions of all streams; the first stream is the one that is read.
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
        """Returns a description of each property that sets the file apart from an ordinary one."""
        found, stated, measured = [], self.stated_rate, self.measured_rate
        if self.variable:
            found.append(f"its frame rate varies ({measured:.4g} frames per second on average)")
        if stated and measured and abs(stated - measured) > _SAME_RATE * measured and not self.variable:
            found.append(f"it states {stated:.4g} frames per second but has {measured:.4g}")
        if not stated:
            found.append("it states no frame rate")
        if self.starts > _NOTICED:
            found.append(f"its pictures start at {self.starts:.1f} s")
        if self.hdr:
            found.append(f"its colours ({self.hdr}) are mapped to those of an ordinary screen")
        if self.mirrored:
            found.append("it is shown mirrored")
        if self.rotation is None:
            found.append("it asks for a rotation that is not a multiple of 90 degrees, which is ignored")
        elif self.rotation:
            found.append(f"it is shown turned by {self.rotation} degrees")
        if self.pixel_aspect != "1:1":
            found.append(f"its pixels are not square ({self.pixel_aspect})")
        videos = [stream for stream in self.streams if stream.startswith("video")]
        if len(videos) > 1:
            found.append(f"it has {len(videos)} video streams; {videos[0].removeprefix('video ')} is read")
        return found


def facts(path: str | pathlib.Path, timeout: float | int = TIMEOUT) -> tuple[Facts, Timeline]:
    """Reads the properties of a file and the times of its frames.

    Args:
      path: The file.
      timeout: Maximum processor time, in seconds; 0 means no limit.

    Returns:
      The properties, and the timeline of the frames.

    Raises:
      VideoError: If the file cannot be read.
    """
    with OpenVideo(path, timeout) as video:
        timeline, frame = video.timeline(), video.first_frame()
        stream = video.stream  # every read reopens the file and replaces the stream
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
