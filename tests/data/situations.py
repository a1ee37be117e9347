"""Video files as people have them: each situation in every container and codec that can hold it.

    python -m tests.data.situations            # makes all files, reads them and prints the table of results
    python -m tests.data.situations --write    # puts it into docs/data.md

Pictures carry their own time, in hundredths of a second, as sixteen blocks, black or white: what was read says when it
is shown. `test_situations.py` runs the same files and keeps the table in step.
"""

import argparse
import fractions
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import av
import numpy as np

from hbi_jax.data.video import VideoError, map_windows

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "data.md"
_MARKED = re.compile(r"(<!-- situations -->\n)(.*?)(<!-- /situations -->)", re.DOTALL)
_WIDTH, _HEIGHT, _BLOCKS = 64, 48, 4
_MILLISECOND, _FRAME = fractions.Fraction(1, 1000), fractions.Fraction(1, 25)


class Kind(NamedTuple):
    """A container, by the ending of its files, and a codec of its pictures and of its sound."""

    ending: str
    codec: str
    sound: str

    def __str__(self) -> str:
        return f"{self.ending} {self.codec.removeprefix('lib')}"


KINDS = (
    Kind(".mp4", "libx264", "aac"),
    Kind(".mp4", "libx265", "aac"),
    Kind(".mp4", "libsvtav1", "aac"),
    Kind(".mp4", "mpeg4", "aac"),
    Kind(".mov", "libx264", "aac"),
    Kind(".mov", "mjpeg", "aac"),
    Kind(".3gp", "mpeg4", "aac"),
    Kind(".f4v", "libx264", "aac"),
    Kind(".mkv", "libx264", "aac"),
    Kind(".mkv", "libx265", "aac"),
    Kind(".mkv", "mpeg4", "libmp3lame"),
    Kind(".webm", "libvpx", "libopus"),
    Kind(".webm", "libvpx-vp9", "libopus"),
    Kind(".avi", "mpeg4", "libmp3lame"),
    Kind(".avi", "libx264", "libmp3lame"),
    Kind(".avi", "mjpeg", "libmp3lame"),
    Kind(".ts", "libx264", "aac"),
    Kind(".ts", "mpeg2video", "mp2"),
    Kind(".m2ts", "libx264", "aac"),
    Kind(".mpg", "mpeg1video", "mp2"),
    Kind(".vob", "mpeg2video", "mp2"),
    Kind(".flv", "libx264", "aac"),
    Kind(".flv", "flv", "libmp3lame"),
    Kind(".wmv", "wmv2", "wmav2"),
    Kind(".asf", "wmv1", "wmav2"),
    Kind(".ogv", "libvpx", "libopus"),
    Kind(".gif", "gif", ""),
)
_MOV, _MATROSKA, _TS = (".mp4", ".mov", ".3gp", ".f4v"), (".mkv", ".webm"), (".ts", ".m2ts")
_PIX_FMT = {"mjpeg": "yuvj420p", "gif": "rgb8"}
_OPTIONS = {
    "libx264": {"crf": "12", "preset": "veryfast"},
    "libx265": {"crf": "12", "preset": "ultrafast", "x265-params": "log-level=none"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "b": "2M"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "b": "2M"},
    "libsvtav1": {"preset": "12", "crf": "20"},
}


def picture(number: int) -> np.ndarray:
    """A picture that carries a number below 65,536."""
    bits = np.asarray([number >> bit & 1 for bit in range(_BLOCKS * _BLOCKS)], np.uint8).reshape(_BLOCKS, _BLOCKS)
    grey = np.kron(bits * 255, np.ones((_HEIGHT // _BLOCKS, _WIDTH // _BLOCKS), np.uint8))
    return np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2))


def number(pixels: np.ndarray) -> int:
    """The number that a picture carries."""
    height, width = pixels.shape[0] // _BLOCKS, pixels.shape[1] // _BLOCKS
    blocks = pixels[: height * _BLOCKS, : width * _BLOCKS].reshape(_BLOCKS, height, _BLOCKS, width, 3)
    bits = blocks[:, height // 4 : -height // 4, :, width // 4 : -width // 4].mean((1, 3, 4)) > 128
    return int((bits.ravel() << np.arange(bits.size)).sum())


def write(
    path: pathlib.Path,
    kind: Kind,
    times: Sequence[float],
    *,
    sound: float = 0.0,
    base: fractions.Fraction = _FRAME,
    aspect: fractions.Fraction | None = None,
    turn: Mapping[str, int | bool] | None = None,
    thumbnail: bool = False,
) -> pathlib.Path:
    """Writes pictures that are shown at some times, in seconds, and so many seconds of sound."""
    scheduling = (os.sched_getscheduler(0), os.sched_getparam(0)) if hasattr(os, "sched_getscheduler") else None
    with av.open(str(path), "w", format="mpegts" if kind.ending in _TS else None) as container:
        if thumbnail:
            small = container.add_stream("mjpeg", rate=1)
            small.width, small.height, small.pix_fmt = 32, 24, "yuvj420p"
        stream = container.add_stream(kind.codec, rate=25, options=dict(_OPTIONS.get(kind.codec, {})))
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, _PIX_FMT.get(kind.codec, "yuv420p")
        stream.gop_size, stream.codec_context.time_base = 12, base
        # Encoders that divide the work among the cores write other times on other machines. SVT-AV1 needs several.
        if kind.codec != "libsvtav1":
            stream.codec_context.thread_count = 1
        if kind.codec not in _OPTIONS and kind.codec != "gif":
            stream.bit_rate, stream.options = 2_000_000, {"qmin": "2", "qmax": "4"}
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if turn is not None:
            stream.set_display_rotation(**turn)
        audio = container.add_stream(kind.sound, rate=48000 if kind.sound == "libopus" else 44100) if sound else None
        if audio is not None:
            audio.bit_rate = 64_000
        if thumbnail:
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 90, np.uint8), format="rgb24")
            container.mux(small.encode(frame))
            container.mux(small.encode())
        for shown in times:
            frame = av.VideoFrame.from_ndarray(picture(round(100 * shown)), format="rgb24")
            frame.pts, frame.time_base = round(shown / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            _write_sound(container, audio, sound)
    if scheduling:
        # For the superuser, SVT-AV1 has given this thread, and what it will start, precedence over all else that runs.
        os.sched_setscheduler(0, *scheduling)
    return path


def _write_sound(container: av.container.OutputContainer, audio: av.AudioStream, seconds: float) -> None:
    """Silence."""
    samples, rate = 1152, audio.codec_context.sample_rate
    for block in range(int(seconds * rate / samples)):
        silence = av.AudioFrame.from_ndarray(np.zeros((1, samples), np.int16), format="s16", layout="mono")
        silence.sample_rate, silence.pts, silence.time_base = rate, block * samples, fractions.Fraction(1, rate)
        container.mux(audio.encode(silence))
    container.mux(audio.encode())


def read(path: pathlib.Path, *windows: tuple[float | None, float | None]) -> list[list[int]]:
    """The numbers of the pictures that are read of some clips.

    Raises:
      VideoError: If one of them cannot be read.
    """
    clips = map_windows(lambda image: number(np.asarray(image)), path, windows or [(None, None)], 12)
    for clip in clips:
        if isinstance(clip, VideoError):
            raise clip
    return clips


def player(times: Sequence[float], seconds: Sequence[float]) -> list[int]:
    """The numbers of the pictures that a player shows at some seconds."""
    return [round(100 * max(time for time in times if time <= second + 1e-3)) for second in seconds]


def _near(found: Sequence[int], wanted: Sequence[int], within: int) -> None:
    """Asserts that pictures are the wanted ones, or others of the same hundredths of a second."""
    assert len(found) == len(wanted), (found, wanted)
    assert max(abs(one - other) for one, other in zip(found, wanted, strict=True)) <= within, (found, wanted)


_CONSTANT = [0.04 * frame for frame in range(100)]
# One a second, then twelve and a half a second.
_VARIABLE = [*(float(second) for second in range(4)), *(4 + 0.08 * frame for frame in range(38))]
_SLIDES = [0.0, 1.0, 2.0, 3.0, 3.2]


def _jittered() -> list[float]:
    rng = np.random.default_rng(0)
    return [round(frame / 30 + (float(rng.uniform(0, 0.02)) if frame else 0), 3) for frame in range(120)]


def _constant(folder: pathlib.Path, kind: Kind) -> None:
    """The published rule: every 25th frame of 25 a second."""
    path = write(folder / f"constant{kind.ending}", kind, _CONSTANT)
    # FFmpeg's times of this container skip the time of a frame.
    within = 4 if kind.ending == ".mpg" else 0
    whole, clip, first = read(path, (None, None), (1, 2), (0, 0.5))
    _near(whole, [0, 100, 200, 300], within)
    _near(clip, [100, 200], within)
    _near(first, [0], within)
    # Read alone, the first picture that is decoded is one that is not wanted, unless it is a key frame.
    _near(*read(path, (1, 2)), [100, 200], within)


def _long_sound(folder: pathlib.Path, kind: Kind) -> None:
    """Sound that goes on for as long again changes nothing."""
    path = write(folder / f"sound{kind.ending}", kind, _CONSTANT, sound=8.0)
    whole, clip = read(path, (None, None), (1, 2))
    # AVI gets an empty picture, which shifts the others by one, and makes it last until after the fourth second.
    assert len(whole) == (5 if str(kind) in (".avi mpeg4", ".avi mjpeg") else 4), whole
    _near(whole[:4], [0, 100, 200, 300], 8)
    _near(clip, [100, 200], 8)


def _variable(folder: pathlib.Path, kind: Kind) -> None:
    path = write(folder / f"variable{kind.ending}", kind, _VARIABLE)
    whole, clip = read(path, (None, None), (2, 5))
    _near(whole, player(_VARIABLE, range(8)), 0)
    _near(clip, player(_VARIABLE, range(2, 6)), 0)


def _jitter(folder: pathlib.Path, kind: Kind) -> None:
    """As telephones and browsers record: thirty a second, each by up to 20 ms late."""
    times = _jittered()  # to 3.99 s, and shown until after 4
    path = write(folder / f"jitter{kind.ending}", kind, times, base=_MILLISECOND)
    found, wanted = read(path, (None, None), (1, 3)), [player(times, range(5)), player(times, range(1, 4))]
    assert found == wanted, (found, wanted)


def _slides(folder: pathlib.Path, kind: Kind) -> None:
    """The last picture stays, with sound, as long as all others together."""
    path = write(folder / f"slides{kind.ending}", kind, _SLIDES, sound=7.0)
    (whole,) = read(path)
    assert whole[:4] == player(_SLIDES, range(4))


def _late(folder: pathlib.Path, kind: Kind) -> None:
    """Pictures begin two seconds after the sound."""
    times = [2 + time for time in _CONSTANT]
    path = write(folder / f"late{kind.ending}", kind, times, sound=6.0)
    whole, clip, early = read(path, (None, None), (3, 5), (0, 2.5))
    _near(whole, [200, 300, 400, 500], 8)
    _near(clip, [300, 400, 500], 8)
    _near(early, [200], 8)


def _cut(folder: pathlib.Path, kind: Kind) -> None:
    """With sound; each tenth of the file, or a little less lest it be cut between two packets."""
    path = write(folder / f"whole{kind.ending}", kind, _CONSTANT, sound=4.0 if kind.sound else 0.0)
    data, whole = path.read_bytes(), read(path)
    path = folder / f"cut{kind.ending}"
    for tenth in range(1, 10):
        path.write_bytes(data[: (len(data) * tenth // 10) - (len(data) * tenth // 10) % 188 - 1])
        try:
            frames = read(path)
        except VideoError:
            continue
        # Only an index or sound is missing.
        assert frames == whole, (tenth, frames, whole)


def _oblong(folder: pathlib.Path, kind: Kind) -> None:
    path = write(folder / f"oblong{kind.ending}", kind, _CONSTANT[:10], aspect=fractions.Fraction(16, 11))
    for square, size in ((True, (93, 48)), (False, (64, 48))):
        ((shown,),) = map_windows(lambda image: image.size, path, [(0, 0)], 1, square_pixels=square)
        assert shown == size


def _turned(folder: pathlib.Path, kind: Kind) -> None:
    """All eight orientations of a picture whose corners differ."""
    for turns in range(4):
        for mirrored in (False, True):
            path = folder / f"turned_{turns}_{mirrored}{kind.ending}"
            write(path, kind, _CONSTANT[:10], turn={"degrees": 90 * turns, "hflip": mirrored})
            with av.open(str(path)) as file:
                stored = next(file.decode(video=0)).to_ndarray(format="rgb24")
            expected = np.rot90(stored, turns)
            ((shown,),) = map_windows(np.asarray, path, [(0, 0)], 1)
            np.testing.assert_array_equal(shown, expected[:, ::-1] if mirrored else expected)


def _thumbnail(folder: pathlib.Path, kind: Kind) -> None:
    """A small picture, as a stream of its own, in front of the video."""
    path = write(folder / f"thumbnail{kind.ending}", kind, _CONSTANT, thumbnail=True)
    found, wanted = read(path, (1, 2)), [[100, 200]]
    assert found == wanted, (found, wanted)


def _joined(folder: pathlib.Path, kind: Kind) -> None:
    """Twice the same file, one after the other: the times of the second begin anew."""
    once = write(folder / f"once{kind.ending}", kind, _CONSTANT)
    path = folder / f"joined{kind.ending}"
    path.write_bytes(2 * once.read_bytes())
    _near(read(path)[0], [0, 100, 200, 300] * 2, 4 if kind.ending == ".mpg" else 0)


def _lost(folder: pathlib.Path, kind: Kind) -> None:
    """A packet in thirty is missing."""
    data, packet = write(folder / f"sent{kind.ending}", kind, _CONSTANT).read_bytes(), 188
    packets = [data[at : at + packet] for at in range(0, len(data), packet)]
    path = folder / f"received{kind.ending}"
    path.write_bytes(b"".join(packet for place, packet in enumerate(packets) if place < 20 or place % 30))
    (frames,) = read(path)
    assert len(frames) == 4


# What cannot hold times of its own for each frame: one for many frames, a count, or a count in another order.
_NO_TIMES = (".mpg mpeg1video", ".vob mpeg2video", ".ogv vpx", ".avi x264")

Check = Callable[[pathlib.Path, Kind], None]
_REAL_TIME = ("libx264", "libx265", "libvpx", "libvpx-vp9", "mpeg4")


class Situation(NamedTuple):
    """A situation: its name, what makes and reads a file, which files can hold it, and how many are made of each."""

    name: str
    check: Check
    holds: Callable[[Kind], bool]
    files: int = 1


SITUATIONS = (
    Situation("constant rate", _constant, lambda kind: True),
    Situation("sound twice as long", _long_sound, lambda kind: bool(kind.sound)),
    Situation("variable rate", _variable, lambda kind: str(kind) not in _NO_TIMES),
    Situation(
        "jitter", _jitter, lambda kind: kind.codec in _REAL_TIME and kind.ending not in (".avi", ".mpg", ".vob", ".ogv")
    ),
    Situation(
        "last picture stays", _slides, lambda kind: bool(kind.sound) and kind.ending not in (".mpg", ".vob", ".avi")
    ),
    Situation("picture starts late", _late, lambda kind: kind.ending in (*_MOV, *_MATROSKA, ".flv", *_TS)),
    Situation("cut at each tenth", _cut, lambda kind: True, 9),
    Situation(
        "pixels not square",
        _oblong,
        lambda kind: kind.ending in (*_MOV, *_MATROSKA, *_TS, ".avi") and kind.codec in ("libx264", "libx265", "mpeg4"),
    ),
    Situation("turned, mirrored", _turned, lambda kind: kind.ending in (".mp4", ".mov"), 8),
    Situation("thumbnail first", _thumbnail, lambda kind: kind.ending in (".mp4", ".mov", ".mkv")),
    Situation("joined", _joined, lambda kind: kind.ending in (*_TS, ".mpg", ".vob")),
    Situation("packets lost", _lost, lambda kind: kind.ending == ".ts"),
)


_RESULTS = {None: "", True: "right", False: "wrong"}


def num_files() -> int:
    """How many files all situations are."""
    return sum(situation.files for situation in SITUATIONS for kind in KINDS if situation.holds(kind))


def table(results: Mapping[tuple[str, Kind], bool]) -> str:
    """The results, a row a container and codec; a blank where these cannot hold the situation."""
    lines = [["container, codec", *(situation.name for situation in SITUATIONS)]]
    lines.append(["---"] * len(lines[0]))
    for kind in KINDS:
        found = [_RESULTS[results.get((situation.name, kind))] for situation in SITUATIONS]
        lines.append([f"`{kind.ending}` {kind.codec.removeprefix('lib')}", *found])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def run(folder: pathlib.Path) -> dict[tuple[str, Kind], bool]:
    """Makes and reads all files; says what went wrong with those that are not read right."""
    results = {}
    for situation in SITUATIONS:
        for kind in filter(situation.holds, KINDS):
            try:
                situation.check(folder, kind)
                results[situation.name, kind] = True
            except Exception as error:
                print(f"WRONG {situation.name}, {kind}: {error!r:.300}")
                results[situation.name, kind] = False
    return results


def main() -> None:
    """Prints or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/data.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = table(run(pathlib.Path(folder)))
    print(f"{num_files()} files\n\n{found}")
    if options.write:
        text = DOCUMENT.read_text()
        DOCUMENT.write_text(_MARKED.sub(lambda match: f"{match[1]}{found}{match[3]}", text))


if __name__ == "__main__":
    main()
