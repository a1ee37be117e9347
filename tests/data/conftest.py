"""Tiny video files whose frames can be told apart: every frame is one grey, given by its number."""

import av
import numpy as np
import pytest


@pytest.fixture(scope="session")
def write_video():
    """Writes a video whose frame `i` has the grey `greys[i]`."""

    def write(path, greys, size=(16, 16), fps=8, faststart=False):
        options = {"movflags": "+faststart"} if faststart else {}
        height, width = size
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for grey in greys:
                pixels = np.full((height, width, 3), grey, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write
