"""Renders one worker's share of the videos, in this process or in a process of its own.

The parent does not fork, because it may run JAX's threads. It does not use multiprocessing's spawn method, because
that imports the parent's main module again, and JAX with it. A worker is a Python process that calls `main`: it reads a
pickled `Share` from stdin and writes one line to stdout for each video on disk ("done") or for an error ("failed
<message>").
"""

import dataclasses
import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from hbi_jax.data.shapes.config import ShapesError, WorldConfig
from hbi_jax.data.shapes.encode import encode_video
from hbi_jax.data.shapes.files import write_atomically
from hbi_jax.data.shapes.renderer import render
from hbi_jax.data.shapes.scenes import Scene


@dataclasses.dataclass(frozen=True)
class Share:
    """The scenes that one worker renders, and the output folder."""

    folder: Path
    scenes: tuple[Scene, ...]
    config: WorldConfig


def render_share(share: Share) -> Iterator[str]:
    """Renders and writes videos one by one; yields each video's id once it is on disk.

    Raises:
      ShapesError: If a file cannot be written.
    """
    for scene in share.scenes:
        video = encode_video(render(scene, share.config.image_size), share.config)
        write_atomically(share.folder / f"{scene.video_id}.mp4", video)
        yield scene.video_id


def main() -> int:
    """Runs a worker process and returns its exit code: 1 after an error or if the parent has ended, otherwise 0."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and stops its workers
    share = pickle.load(sys.stdin.buffer)
    try:
        for _ in render_share(share):
            print("done", flush=True)
    except ShapesError as error:
        print(f"failed {error}", flush=True)
        return 1
    except BrokenPipeError:  # the parent has ended; all written files are complete
        return 1
    return 0
