"""A finished run applied to video files: `answer_questions`, `generate_captions`, and what such functions share."""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import PyTree
from ml_collections import ConfigDict

from hbi_jax import build
from hbi_jax.config import read_config
from hbi_jax.data.datasets import Record, Split
from hbi_jax.data.source import Source
from hbi_jax.data.text import clean
from hbi_jax.parallel import make_mesh
from hbi_jax.tasks import TASKS, Task
from hbi_jax.train.checkpoint import CheckpointError
from hbi_jax.weights import is_converted, open_checkpoint, workdir_of

_log = logging.getLogger(__name__)

# One path, or several.
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Run(NamedTuple):
    """A finished run, opened. Whoever asks often opens it once: what is compiled stays with it.

    Attributes:
      config: Its configuration, but for what concerns its data.
      task: Model and evaluator.
      params: Those of the checkpoint.
    """

    config: ConfigDict
    task: Task
    params: PyTree


class Answer(NamedTuple):
    """What a model answers to a question about a video.

    Attributes:
      video: The file, as it was given.
      question: As it was given.
      answers: The likeliest answers, the likeliest first; none where the video cannot be read.
      probabilities: Theirs, in 0..1.
      error: Why the video cannot be read; None where it can.
    """

    video: str
    question: str
    answers: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str | None = None


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


def open_run(checkpoint: str | os.PathLike[str], task: str, batch_size: int = 8) -> Run:
    """Opens a work folder to apply its model; the data that it was trained with need not be there any more.

    Args:
      checkpoint: The work folder (its best checkpoint), or a step such as `runs/quickstart_qa/checkpoints/500`.
      task: What `config.task` has to be.
      batch_size: Videos or texts at a time, rounded up to what the devices divide.

    Raises:
      CheckpointError: If it is none, or one of another task.
    """
    path = os.fspath(checkpoint)
    workdir = workdir_of(path)
    if is_converted(path):
        raise CheckpointError(
            f"{path} holds converted weights: wanted the work folder of a run, which also tells how videos are read "
            "and what the numbers of answers mean; evaluate them in one: --mode=evaluate --checkpoint"
        )
    try:
        config = read_config(workdir / "config.json")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is no work folder of a run: {workdir}/config.json cannot be read ({error}); give one that was "
            "trained in, such as runs/quickstart, or one of its steps"
        ) from error
    if config.task != task:
        raise CheckpointError(
            f"{path} is a checkpoint of config.task={config.task!r}: wanted one of {task!r}; give the work folder of "
            "such a run"
        )
    config.eval.batch_size = batch_size
    # One of the given videos may be unreadable, and so may all.
    config.data.max_unreadable_rate = 1.0
    opened = TASKS[task].of_run(config, make_mesh(), workdir)
    with open_checkpoint(path, config.eval.best_metric) as (checkpoints, step):
        return Run(config, opened, checkpoints.restore_params(opened.abstract_params(), step))


def video_source(config: ConfigDict, videos: Paths, texts: Sequence[str] = ("video",)) -> Source:
    """Video files as a split of which evaluators read each video once, as `config.data` says.

    Those that cannot be read are in the source's `unreadable` afterwards, by the path as it was given. Texts that are
    too long for the model are named in a warning each.

    Args:
      config: That of the run.
      videos: The files.
      texts: There is a record for each video with each of them, in this order. What needs no text has one all the same.

    Raises:
      ValueError: If there is no video, no text, or an empty text.
    """
    paths = [os.fspath(video) for video in _several(videos)]
    for name, given in (("videos", paths), ("texts", texts)):
        if not given:
            raise ValueError(f"{name}: got none, wanted at least one; name some")
    for number, text in enumerate(texts):
        if not clean(text):
            raise ValueError(f"text {number + 1} of {len(texts)}: got {text!r}, wanted words; write it out")
    tokenizer = build.tokenizer(config)
    for text in dict.fromkeys(texts):
        if tokenizer.truncated([text]):
            (kept,), _ = tokenizer.encode([text])
            _log.warning(
                "%r has more than config.data.num_words=%d tokens and loses its end: the model reads %r",
                text,
                config.data.num_words,
                tokenizer.decode(kept),
            )
    records = [Record(text, path, pathlib.Path(path)) for path in paths for text in texts]
    return build.source(config, Split("given", tuple(records)))


def answer_questions(
    checkpoint: str | os.PathLike[str] | Run, videos: Paths, questions: str | Sequence[str], top: int = 5
) -> list[Answer]:
    """Answers every question about every video.

    Args:
      checkpoint: As of `open_run`, or what it gave for `answers`.
      videos: The files; each is read once. One that cannot be read spoils no other.
      questions: One or several. One that is too long for the model loses its end, and a warning names it.
      top: Answers of each question, or all of the vocabulary where there are fewer.

    Returns:
      All questions about the first video, all about the second, and so on.

    Raises:
      ValueError: If there is no video or question, a question is empty, or `top` is less than 1.
      CheckpointError: As `open_run`.
    """
    if top < 1:
        raise ValueError(f"top={top}: wanted 1 answer or more; raise it")
    questions = _several(questions)
    if not isinstance(checkpoint, Run):
        checkpoint = open_run(checkpoint, "answers", batch_size=min(8, len(_several(videos))))
    config, task, params = checkpoint
    source = video_source(config, videos, questions)
    answered = task.evaluator.answer(params, source, config.data.num_threads, top)
    found = {
        record: (tuple(task.vocabulary.answers[number] for number in numbers), tuple(probabilities))
        for record, numbers, probabilities in zip(
            answered.record_index.tolist(), answered.answers.tolist(), answered.probabilities.tolist(), strict=True
        )
    }
    return [
        Answer(record.video_id, record.text, *found.get(number, ((), ())), source.unreadable.get(record.video_id))
        for number, record in enumerate(source.split.records)
    ]


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
        checkpoint = open_run(checkpoint, "captions", batch_size=min(8, len(_several(videos))))
    config, task, params = checkpoint
    decoding = dataclasses.replace(task.decoding, method=method or task.decoding.method, num_samples=top)
    decoding = dataclasses.replace(decoding, num_beams=max(decoding.num_beams, top))
    if top > decoding.num_captions:
        raise ValueError(f"top={top}: wanted 1 where the method is {decoding.method!r}; use 'beam' or 'sample'")
    source = video_source(config, videos)
    captioned = task.evaluator.caption(params, source, decoding, config.data.num_threads, seed)
    rows = zip(captioned.video_index.tolist(), captioned.captions, captioned.log_probability.tolist(), strict=True)
    found = {number: (captions[:top], tuple(log_probabilities[:top])) for number, captions, log_probabilities in rows}
    return [
        Caption(record.video_id, *found.get(number, ((), ())), source.unreadable.get(record.video_id))
        for number, record in enumerate(source.split.videos)
    ]


def _several(given: Paths) -> Sequence[str | os.PathLike[str]]:
    """One thing or several as several."""
    return [given] if isinstance(given, str | os.PathLike) else given
