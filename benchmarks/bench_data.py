"""Throughput of reading videos for training: `python -m benchmarks.bench_data [--short]`. Writes bench_data.json.

Renders H.264 clips of the size of MSR-VTT's (10 s, 320x240) and larger clips (30 s, 640x360), with key frames close
together and far apart. On all available cores, measures:

- decoding: throughput in clips per second, with 12 frames per clip resized to 224, one thread per clip and one clip per
  core at a time. Compares with OpenCV and decord if they are installed (`pip install opencv-python-headless decord`, in
  a separate environment, as the project does not need them);
- prepared: the same for clips from a folder of `python -m hbi_jax.data prepare`;
- hidden: the share of a training step of ViT-B/32's size that waits for the input pipeline with two worker processes.
  A timed wait simulates the accelerator;
- memory: the memory of this process and its workers over 10,000 batches of tiny clips.
"""

import argparse
import concurrent.futures
import contextlib
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import av
import numpy as np
from PIL import Image

from benchmarks import harness
from hbi_jax.data.datasets import Record, Split
from hbi_jax.data.images import resize_and_crop
from hbi_jax.data.pipeline import train_batches
from hbi_jax.data.prepare import prepare
from hbi_jax.data.prepared import Prepared, Settings, relocated
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer
from hbi_jax.data.video import read_frames, sample_indices

NUM_FRAMES, SIZE, FPS = 12, 224, 25
# Duration in seconds, width and height in pixels.
CLIPS = {"short": (10, 320, 240), "long": (30, 640, 360)}
GOPS = (12, 250)
# Rendered scenes per kind, and files per kind. Most files are copies, so that no two rows of a batch share a file.
SCENES, FILES = 4, 32
CORES = len(os.sched_getaffinity(0))

# The simulated step: 128 clips of 12 frames, forward and backward, take 40 TFLOP in ViT-B/32 (8.8 GFLOP a frame, three
# times), or 250 ms on an accelerator with 160 TFLOP/s. Its host has 16 cores; two of them deliver an eighth of the
# batch.
STEP_SECONDS, STEP_CLIPS, HOST_CORES, WORKERS = 0.25, 128, 16, 2

Reader = Callable[[pathlib.Path], np.ndarray]


def render(path: pathlib.Path, seconds: int, width: int, height: int, gop: int, seed: int) -> pathlib.Path:
    """Renders a camera pan over a textured scene with moving patches and a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 20, width // 20, 3), np.uint8))
    scene = np.asarray(coarse.resize((2 * width, 2 * height), Image.Resampling.BICUBIC)).astype(np.int16)
    patches = [(rng.integers(0, 256, 3), *rng.uniform(0, 6, 4)) for _ in range(6)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "g": str(gop), "keyint_min": str(gop), "sc_threshold": "0", "bf": "3"}
        for number in range(seconds * FPS):
            turn = number / FPS / 5
            left, top = (int(size * (0.5 + 0.45 * wave(turn))) for size, wave in ((width, np.sin), (height, np.cos)))
            picture = scene[top : top + height, left : left + width].copy()
            for colour, x, y, dx, dy in patches:
                column, row = (
                    int(n * (0.4 + 0.4 * np.sin(a + b * turn))) for n, a, b in ((width, x, dx), (height, y, dy))
                )
                picture[row : row + height // 5, column : column + width // 5] = colour
            picture += rng.integers(-4, 5, (height, width, 1), np.int16)
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _wanted(num_frames: int, fps: float) -> list[int]:
    return sample_indices(num_frames, fps, NUM_FRAMES).tolist()


def _finished(pictures: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([resize_and_crop(picture, SIZE) for picture in pictures])


def ours(path: pathlib.Path) -> np.ndarray:
    """Reads a clip with hbi_jax."""
    return read_frames(path, NUM_FRAMES, SIZE)


def _opencv(seek: bool) -> Reader:
    import cv2

    cv2.setNumThreads(1)

    def read(path: pathlib.Path) -> np.ndarray:
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        pictures, at = [], 0
        for number in _wanted(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), video.get(cv2.CAP_PROP_FPS)):
            if seek:
                video.set(cv2.CAP_PROP_POS_FRAMES, number)
            else:
                for _ in range(number - at):
                    video.grab()
            pictures.append(cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB))
            at = number + 1
        video.release()
        return _finished(pictures)

    return read


def _decord(path: pathlib.Path) -> np.ndarray:
    import decord

    video = decord.VideoReader(str(path), num_threads=1)
    return _finished(video.get_batch(_wanted(len(video), video.get_avg_fps())).asnumpy())


def readers() -> dict[str, Reader]:
    """Returns the readers that can be imported, with OpenCV in both of its modes."""
    found: dict[str, Reader] = {"hbi_jax": ours}
    if importlib.util.find_spec("cv2"):
        found |= {"OpenCV, one after the other": _opencv(seek=False), "OpenCV, seeking": _opencv(seek=True)}
    if importlib.util.find_spec("decord"):
        found["decord"] = _decord
    return found


def clips_per_second(
    reads: Mapping[str, Reader], paths: Sequence[pathlib.Path], rounds: int
) -> dict[str, dict[str, float]]:
    """Returns the median, minimum and maximum over several rounds.

    Readers take turns, so that other load on the machine affects them alike.
    """
    rates: dict[str, list[float]] = {name: [] for name in reads}
    with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
        for call in range(rounds + 1):
            for name, read in reads.items():
                begun = time.perf_counter()
                list(pool.map(read, paths))
                if call:  # the first round warms up
                    rates[name].append(len(paths) / (time.perf_counter() - begun))
    return {
        name: {"median": round(float(np.median(rate)), 2), "min": round(min(rate), 2), "max": round(max(rate), 2)}
        for name, rate in rates.items()
    }


def split_of(paths: Sequence[pathlib.Path]) -> Split:
    """Returns a split with one record per file."""
    return Split("train", tuple(Record("a caption", path.stem, path) for path in paths))


def sources(folder: pathlib.Path, size: int = SIZE) -> dict[str, Source]:
    """Returns sources of the clips of a folder, from the video files and prepared."""
    split, ready = split_of(sorted(folder.glob("*.mp4"))), folder / "prepared"
    prepare([split], folder, ready, Settings(), shown=False)
    return {
        "raw": Source(split, Tokenizer(32), size, NUM_FRAMES),
        "prepared": Source(relocated(split, folder, ready), Tokenizer(32), size, NUM_FRAMES, prepared=Prepared(ready)),
    }


def row_reader(source: Source) -> Reader:
    """Returns a reader that reads the clip of a file as a row of a batch."""
    places = {record.path.name: place for place, record in enumerate(source.split.videos)}
    return lambda path: source.video_rows(np.asarray([places[path.name]], np.int32))[0][0]


def render_all(folder: pathlib.Path) -> dict[str, dict[str, Source]]:
    """Renders folders of clips that differ in size and key-frame distance, with copies of each scene."""
    found = {}
    for name, (seconds, width, height) in CLIPS.items():
        for gop in GOPS:
            videos = folder / f"{name}-{gop}"
            videos.mkdir()
            for scene in range(SCENES):
                path = render(videos / f"{scene}.mp4", seconds, width, height, gop, scene)
                for copy in range(1, FILES // SCENES):
                    shutil.copy(path, videos / f"{scene}-{copy}.mp4")
            found[f"{name}, {gop}"] = sources(videos)
    return found


def compare_decoding(clips: Mapping[str, Mapping[str, Source]], rounds: int) -> dict:
    """Measures the throughput of every reader and of prepared clips, in clips per second."""
    found = {}
    for name, ways in clips.items():
        paths = [record.path for record in ways["raw"].split.videos[: 4 * CORES]]
        reads, expected = readers(), ours(paths[0]).astype(float)
        differences = {reader: np.abs(read(paths[0]) - expected).mean() for reader, read in reads.items()}
        rates = clips_per_second(reads | {way: row_reader(source) for way, source in ways.items()}, paths, rounds)
        others = [reader for reader in reads if reader != "hbi_jax"]
        shards = (paths[0].parent / "prepared").glob("*array_record*")
        found[name] = {
            "bytes": {
                "raw": round(np.mean([path.stat().st_size for path in paths])),
                "prepared": sum(path.stat().st_size for path in shards) // FILES,
            },
            "clips_per_second": rates,
            "mean_difference_of_pixels": {reader: round(float(value), 3) for reader, value in differences.items()},
            "ours_over": {reader: _ratio(rates, "hbi_jax", reader) for reader in others},
            "prepared_over_raw": _ratio(rates, "prepared", "raw"),
        }
        print(name, found[name], flush=True)
    return found


def _ratio(rates: Mapping[str, Mapping[str, float]], one: str, other: str) -> float:
    return round(rates[one]["median"] / rates[other]["median"], 2)


def hidden(source: Source, seconds: float) -> dict[str, float]:
    """Measures how long the accelerator waits for batches, without the first third, when buffers are still full."""
    rows, waits = STEP_CLIPS * WORKERS // HOST_CORES, []
    with train_batches(source, rows, seed=0, num_workers=WORKERS, num_threads=1, prefetch=1) as batches:
        next(batches)  # starts the workers
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            begun = time.perf_counter()
            next(batches)
            waits.append(time.perf_counter() - begun)
            time.sleep(STEP_SECONDS)
    waits = waits[len(waits) // 3 :]
    return {
        "rows": rows,
        "steps": len(waits),
        "median_wait_ms": round(1e3 * float(np.median(waits)), 1),
        "p90_wait_ms": round(1e3 * float(np.percentile(waits, 90)), 1),
        "share_not_hidden": round(sum(waits) / (len(waits) * STEP_SECONDS), 4),
    }


def resident_mib() -> float:
    """Returns the resident memory of this process and its children, in MiB."""
    total = 0
    for status in pathlib.Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # the process has just ended
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            if str(os.getpid()) in (fields["Pid"], fields["PPid"]):
                total += int(fields.get("VmRSS", "0").split()[0])
    return total / 1024


def memory(source: Source, batches_in_all: int) -> dict[str, float]:
    """Measures memory growth: the slope over the second half of many batches."""
    at, held = [], []
    with train_batches(source, 4, seed=0, num_workers=WORKERS, num_threads=1, prefetch=1) as batches:
        for number in range(1, batches_in_all + 1):
            next(batches)
            if number % (batches_in_all // 20) == 0:
                at.append(number / 1000)
                held.append(resident_mib())
    slope, _ = np.polyfit(at[10:], held[10:], 1)
    return {
        "batches": batches_in_all,
        "first_mib": round(held[0], 1),
        "last_mib": round(held[-1], 1),
        "most_mib": round(max(held), 1),
        "slope_mib_per_1000_batches": round(float(slope), 3),
    }


def main() -> None:
    """Measures and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer rounds, steps and batches: a minute or two")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"), help="folder of the JSON"
    )
    options = parser.parse_args()
    rounds, seconds, batches = (2, 4, 1000) if options.short else (7, 15, 10_000)
    versions = {}
    for package in ("av", "opencv-python-headless", "decord", "array_record", "pillow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        clips = render_all(folder)
        results = {
            "versions_of_readers": versions,
            "clips": CLIPS,
            "frames": NUM_FRAMES,
            "size": SIZE,
            "rounds": rounds,
            "decoding": compare_decoding(clips, rounds),
            "step": {"seconds": STEP_SECONDS, "clips": STEP_CLIPS, "host_cores": HOST_CORES, "workers": WORKERS},
            "hidden": {
                f"{name}, {way}": hidden(source, seconds)
                for name, ways in clips.items()
                for way, source in ways.items()
            },
        }
        print(results["hidden"], flush=True)
        (folder / "tiny").mkdir()
        for number in range(8):
            render(folder / "tiny" / f"{number}.mp4", 1, 40, 40, 12, number)
        results["memory"] = {way: memory(source, batches) for way, source in sources(folder / "tiny", 32).items()}
        print(results["memory"], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    print(harness.write(options.out, "bench_data", results))


if __name__ == "__main__":
    main()
