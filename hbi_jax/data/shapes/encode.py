"""Encodes frames to mp4 files, decodes them, and converts videos to other containers."""

import io
import shutil
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from hbi_jax.data.shapes.config import WorldConfig
from hbi_jax.data.shapes.files import cannot_write, write_atomically


def encode_video(frames: UInt8[np.ndarray, "f h w 3"], config: WorldConfig) -> bytes:
    """Encodes RGB frames to an H.264 mp4 file in memory.

    With one thread and a fixed preset, equal frames give equal bytes.
    """
    options = {"preset": "superfast", "crf": str(config.crf), "g": str(config.gop), "bf": "0", "threads": "1"}
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=config.fps, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def convert_video(source: Path, target: Path) -> None:
    """Copies a video, re-encoding it as MPEG-4 (as in old collections) if the extension differs.

    Args:
      source: The video file.
      target: The copy. Its extension selects the container; its folder is created if absent.

    Raises:
      ShapesError: If the copy cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == target.suffix:
            shutil.copyfile(source, target)
            return
    except OSError as error:
        raise cannot_write(target, error) from error
    file = io.BytesIO()
    container = {".m4v": "mp4"}.get(target.suffix, target.suffix.removeprefix("."))
    with av.open(str(source)) as given, av.open(file, "w", format=container) as made:
        pictures = given.streams.video[0]
        stream = made.add_stream("mpeg4", rate=pictures.average_rate, options={"qmin": "2", "qmax": "2"})
        stream.height, stream.width, stream.pix_fmt = pictures.height, pictures.width, "yuv420p"
        for frame in given.decode(pictures):
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    write_atomically(target, file.getvalue())


def decode_video(source: Path | bytes) -> UInt8[np.ndarray, "f h w 3"]:
    """Returns all RGB frames of a file made by `encode_video`."""
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
