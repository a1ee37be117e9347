"""Captions of video files, made by a finished run."""

import os
from typing import NamedTuple

from hbi_jax.fields import parse, plain
from hbi_jax.tasks.captions.config import CaptionsConfig
from hbi_jax.tasks.inference import Paths, Run, open_run, several, video_source


class Caption(NamedTuple):
    """What a model says of a video.

    Attributes:
      video: The file, as it was given.
      captions: The best first; none where the video cannot be read. One may be empty.
      log_probabilities: Theirs.
      error: Why the video cannot be read; None where it can.
    """

    video: str
    captions: tuple[str, ...]
    log_probabilities: tuple[float, ...]
    error: str | None = None


def generate_captions(
    checkpoint: str | os.PathLike[str] | Run, videos: Paths, method: str | None = None, top: int = 1, seed: int = 0
) -> list[Caption]:
    """Captions every video.

    Args:
      checkpoint: As of `open_run`, or what it gave for `captions`.
      videos: The files; each is read once. One that cannot be read spoils no other.
      method: greedy, beam or sample; None: that of the run.
      top: Captions of each video: the best of a beam search, which is widened to have as many, or so many samples.
      seed: Of what is sampled.

    Returns:
      One result a video, in order.

    Raises:
      ValueError: If there is no video, no such method, `top` is less than 1, or more where the method gives one.
      CheckpointError: As `open_run`.
    """
    if top < 1:
        raise ValueError(f"top={top}: wanted 1 caption or more; raise it")
    if not isinstance(checkpoint, Run):
        checkpoint = open_run(checkpoint, "captions", batch_size=min(8, len(several(videos))))
    config, task, params = checkpoint
    changes = {
        "method": method or task.decoding.method,
        "num_samples": top,
        "num_beams": max(task.decoding.num_beams, top),
    }
    decoding = parse(CaptionsConfig, plain(task.decoding) | changes, "decoding")
    if top > decoding.num_captions:
        raise ValueError(f"top={top}: wanted 1 where the method is {decoding.method!r}; use 'beam' or 'sample'")
    source = video_source(task.dataset, videos)
    captioned = task.evaluator.caption(params, source, decoding, config.data.num_threads, seed)
    rows = zip(captioned.video_index.tolist(), captioned.captions, captioned.log_probability.tolist(), strict=True)
    found = {number: (captions[:top], tuple(log_probabilities[:top])) for number, captions, log_probabilities in rows}
    return [
        Caption(record.video_id, *found.get(number, ((), ())), source.unreadable.get(record.video_id))
        for number, record in enumerate(source.split.videos)
    ]
