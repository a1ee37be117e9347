"""Frames to the bytes of an mp4 file and back."""

import io
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from hbi_jax.data.shapes.config import WorldConfig


def encode_video(frames: UInt8[np.ndarray, "f h w 3"], config: WorldConfig) -> bytes:
    """Compresses RGB frames to an H.264 mp4 file, in memory.

    One thread and a fixed preset: equal frames give equal bytes.
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


def decode_video(source: Path | bytes) -> UInt8[np.ndarray, "f h w 3"]:
    """All frames of a file that `encode_video` made."""
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
