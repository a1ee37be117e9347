"""Makes a world on disk: in parallel, resumable, every file whole or absent."""

import contextlib
import dataclasses
import fcntl
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from hbi_jax.commands.progress import Progress
from hbi_jax.data.shapes.annotations import ANNOTATION_FILES, annotation_files
from hbi_jax.data.shapes.config import ShapesError, WorldConfig
from hbi_jax.data.shapes.files import PARTIAL_SUFFIX, cannot_write, write_atomically
from hbi_jax.data.shapes.manifest import MANIFEST_FILE, check_same_world, manifest_bytes, read_manifest
from hbi_jax.data.shapes.plan import video_ids
from hbi_jax.data.shapes.scenes import Scene, stage_world
from hbi_jax.data.shapes.worker import Share, render_share

VIDEO_FOLDER = "videos"
_FEW_VIDEOS = 64  # below, starting processes takes longer than rendering


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `generate` did.

    Attributes:
      folder: Where the world is.
      num_videos: Videos in it.
      num_rendered: Videos rendered by this call.
      seconds: Time this call took.
      already_there: True where nothing was missing and nothing was written.
    """

    folder: Path
    num_videos: int
    num_rendered: int
    seconds: float
    already_there: bool


def generate(
    folder: str | Path,
    config: WorldConfig = WorldConfig(),  # noqa: B008 (frozen)
    num_workers: int | None = None,
    show_progress: bool = True,
) -> Summary:
    """Renders a world into a folder, or what is missing of it there.

    Calling it again is cheap; an interrupted run goes on where it stopped; a second process that is given the
    same folder waits for the first and finds everything there. Videos that exist are not rendered again.

    Args:
      folder: Made if absent. Holds one world only.
      config: What to make; the bytes of every file follow from it, whatever the number of workers.
      num_workers: Processes that render; 1 renders in this process. None: one for each core it may use.
      show_progress: Whether to report progress and remaining time on stderr.

    Raises:
      ShapesError: The folder holds another world or other data, cannot be written, or a worker was killed.
    """
    if num_workers is not None and num_workers < 1:
        raise ShapesError(f"num_workers={num_workers} must be at least 1, or None for one a core.")
    begin = time.monotonic()
    folder = Path(folder)
    videos = folder / VIDEO_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    with _only_process(folder):
        found = read_manifest(folder)
        check_same_world(folder, found, config)
        if found is None:  # first of all files, so that whatever comes to be there is known to be ours
            write_atomically(folder / MANIFEST_FILE, manifest_bytes(config, finished=False))
        try:
            videos.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(videos, error) from error
        there = _whole_files(videos)
        missing_ids = {video_id for video_id in video_ids(config) if f"{video_id}.mp4" not in there}
        annotated = all((folder / name).is_file() for name in ANNOTATION_FILES)
        if found and found["finished"] and annotated and not missing_ids:
            seconds = time.monotonic() - begin
            return Summary(folder, config.num_videos, 0, seconds, already_there=True)

        _delete_partial_files(folder, videos)
        write_atomically(folder / MANIFEST_FILE, manifest_bytes(config, finished=False))
        scenes = stage_world(config)
        for name, content in annotation_files(scenes, config).items():
            write_atomically(folder / name, content)
        missing = tuple(scene for scene in scenes if scene.video_id in missing_ids)
        if missing:
            label = "render videos" if len(missing) == len(scenes) else "render missing videos"
            with Progress(len(missing), label, shown=show_progress) as progress:
                _render(videos, missing, config, num_workers, progress)
        write_atomically(folder / MANIFEST_FILE, manifest_bytes(config, finished=True))  # last: it vouches for the rest
    return Summary(folder, len(scenes), len(missing), time.monotonic() - begin, already_there=False)


@contextlib.contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Lets one process at a time write to a folder; the lock goes with its process, however that ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _whole_files(folder: Path) -> set[str]:
    """Names of the files that hold something: a machine that lost power may leave empty ones."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_file() and entry.stat().st_size}


def _delete_partial_files(*folders: Path) -> None:
    for folder in folders:
        for path in folder.glob(f"*{PARTIAL_SUFFIX}"):
            try:
                path.unlink()
            except OSError as error:
                raise cannot_write(path, error) from error


def _render(
    videos: Path,
    scenes: tuple[Scene, ...],
    config: WorldConfig,
    num_workers: int | None,
    progress: Progress,
) -> None:
    if num_workers is None:
        num_workers = 1 if len(scenes) < _FEW_VIDEOS else _num_cores()
    if num_workers == 1:
        for _ in render_share(Share(videos, scenes, config)):
            progress.update()
    else:
        shares = [Share(videos, scenes[first::num_workers], config) for first in range(num_workers)]
        _run_workers([share for share in shares if share.scenes], progress)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: what this process may use of the machine
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run_workers(shares: list[Share], progress: Progress) -> None:
    root = str(Path(__file__).resolve().parents[3])  # workers find this package, installed or not
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    program = "import sys; from hbi_jax.data.shapes import worker; sys.exit(worker.main())"
    lines: queue.Queue[tuple[int, str | None]] = queue.Queue()
    workers = [
        subprocess.Popen(
            (sys.executable, "-c", program),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        for _ in shares
    ]
    try:
        for number, (worker, share) in enumerate(zip(workers, shares, strict=True)):
            with contextlib.suppress(BrokenPipeError):  # it died at once: its exit code says so below
                pickle.dump(share, worker.stdin)
                worker.stdin.close()
            threading.Thread(target=_forward, args=(number, worker.stdout, lines), daemon=True).start()
        running = len(workers)
        while running:
            number, line = lines.get()
            if line == "done":
                progress.update()
            elif line is not None:
                raise ShapesError(line.removeprefix("failed "))
            else:
                running -= 1
                _check_exit(workers[number].wait())
    finally:
        for worker in workers:
            worker.kill()  # no effect on one that has ended
            worker.wait()
            worker.stdout.close()


def _forward(number: int, stdout, lines: "queue.Queue[tuple[int, str | None]]") -> None:
    for line in stdout:
        lines.put((number, line.decode().rstrip("\n")))
    lines.put((number, None))


def _check_exit(code: int) -> None:
    if code:
        reason = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise ShapesError(
            f"a rendering process {reason} (out of memory?); run the same command again, with fewer "
            "workers if it recurs: what is finished is kept."
        )
