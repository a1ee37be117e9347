"""Captioning of video files with a finished run."""

import os
from typing import NamedTuple

from hbi_jax.fields import LARGEST_SEED, parse, plain
from hbi_jax.tasks.captions.config import CaptionsConfig
from hbi_jax.tasks.inference import Paths, Run, open_run, several, video_source


class Caption(NamedTuple):
    """The captions of a model for a video.

    Attributes:
      video: The file, as given.
      captions: The captions, the best first; none if the video is unreadable. A caption may be empty.
      log_probabilities: The log-probabilities of `captions`.
      error: Why the video is unreadable; None if it was read.
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
      checkpoint: A work folder or step, see `open_run`, or a `Run` that `open_run` returned for `captions`.
      videos: The files; each is read once. An unreadable file does not affect the others.
      method: greedy, beam or sample; None uses the method of the run.
      top: Number of captions per video: the best of a beam search (widened if it has fewer beams), or samples.
      seed: The seed of sampled captions, which also depend on the number of the video among `videos`.

    Returns:
      One result per video, in order.

    Raises:
      ValueError: If there is no video, the method is unknown, `top` is less than 1, `top` is more than 1 with a
        method that gives one caption, or the seed is none of those that JAX tells apart.
      CheckpointError: If the checkpoint cannot be opened, see `open_run`.
    """
    if top < 1:
        raise ValueError(f"top={top}: wanted 1 caption or more; raise it")
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed={seed}: wanted a whole number in 0..{LARGEST_SEED}; choose such a one")
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
        raise ValueError(f"top={top}: wanted 1 if the method is {decoding.method!r}; use 'beam' or 'sample'")
    source = video_source(task.dataset, videos)
    captioned = task.evaluator.caption(params, source, decoding, config.data.num_threads, seed)
    rows = zip(captioned.video_index.tolist(), captioned.captions, captioned.log_probability.tolist(), strict=True)
    found = {number: (captions[:top], tuple(log_probabilities[:top])) for number, captions, log_probabilities in rows}
    return [
        Caption(record.video_id, *found.get(number, ((), ())), source.unreadable.get(record.video_id))
        for record, number in zip(source.split.records, source.split.video_index.tolist(), strict=True)
    ]
