"""Renders one share of the videos, in this process or as a process of its own.

The parent does not fork, because it may run JAX's threads, and does not use multiprocessing's fresh
processes, because those import the parent's main module again, JAX with it. A worker is a Python that calls
`main`: a pickled `Share` comes in on stdin, and a line goes out on stdout for every video that is on disk
("done") or for what went wrong ("failed <message>").
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
    """The scenes that one worker renders, and the folder that its videos go to."""

    folder: Path
    scenes: tuple[Scene, ...]
    config: WorldConfig


def render_share(share: Share) -> Iterator[str]:
    """Renders and writes one video after the other; yields the id of each that is on disk.

    Raises:
      ShapesError: A file cannot be written.
    """
    for scene in share.scenes:
        video = encode_video(render(scene, share.config.image_size), share.config)
        write_atomically(share.folder / f"{scene.video_id}.mp4", video)
        yield scene.video_id


def main() -> int:
    """Entry of a worker process; the exit code is 1 where a message was sent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it stops its workers
    share = pickle.load(sys.stdin.buffer)
    try:
        for _ in render_share(share):
            print("done", flush=True)
    except ShapesError as error:
        print(f"failed {error}", flush=True)
        return 1
    except BrokenPipeError:  # the parent is gone; what was written is whole
        return 1
    return 0
