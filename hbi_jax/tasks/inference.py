"""A finished run applied to video files: what answering, captioning and the like share."""

import logging
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import PyTree

from hbi_jax.data.dataset import Dataset
from hbi_jax.data.datasets import Record, Split
from hbi_jax.data.source import Source
from hbi_jax.data.text import clean
from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.tasks.config import Config, read_config
from hbi_jax.tasks.registry import TASKS
from hbi_jax.tasks.task import Task
from hbi_jax.tasks.weights import is_converted, open_checkpoint, workdir_of
from hbi_jax.train.checkpoint import CheckpointError

_log = logging.getLogger(__name__)

# One path, or several.
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Run(NamedTuple):
    """A finished run, opened. Whoever asks often opens it once: what is compiled stays with it.

    Attributes:
      config: Its configuration, without the folders of its data.
      task: Model and evaluator.
      params: Those of the checkpoint.
    """

    config: Config
    task: Task
    params: PyTree


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
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no work folder of a run: {workdir}/config.json cannot be read ({error}); give one that was "
            "trained in, such as runs/quickstart, or one of its steps"
        ) from error
    if config.task != task:
        raise CheckpointError(
            f"{path} is a checkpoint of config.task={config.task!r}: wanted one of {task!r}; give the work folder of "
            "such a run"
        )
    # One of the given videos may be unreadable, and so may all.
    config = config.replace(eval__batch_size=batch_size, data__max_unreadable_rate=1.0)
    opened = TASKS[task].of_run(config, make_mesh(), workdir)
    with open_checkpoint(path, config.eval.best_metric) as (checkpoints, step):
        return Run(config, opened, checkpoints.restore_params(opened.abstract_params(), step))


def video_source(dataset: Dataset, videos: Paths, texts: Sequence[str] = ("video",)) -> Source:
    """Video files as a split of which evaluators read each video once, as the data set's configuration says.

    Those that cannot be read are in the source's `unreadable` afterwards, by the path as it was given. Texts that are
    too long for the model are named in a warning each.

    Args:
      dataset: That of the run's task.
      videos: The files.
      texts: There is a record for each video with each of them, in this order. What needs no text has one all the same.

    Raises:
      ValueError: If there is no video, no text, or an empty text.
    """
    paths = [os.fspath(video) for video in several(videos)]
    for name, given in (("videos", paths), ("texts", texts)):
        if not given:
            raise ValueError(f"{name}: got none, wanted at least one; name some")
    for number, text in enumerate(texts):
        if not clean(text):
            raise ValueError(f"text {number + 1} of {len(texts)}: got {text!r}, wanted words; write it out")
    tokenizer = dataset.tokenizer
    for text in dict.fromkeys(texts):
        if tokenizer.truncated([text]):
            (kept,), _ = tokenizer.encode([text])
            _log.warning(
                "%r has more than config.data.num_words=%d tokens and loses its end: the model reads %r",
                text,
                dataset.config.num_words,
                tokenizer.decode(kept),
            )
    records = [Record(text, path, pathlib.Path(path)) for path in paths for text in texts]
    return dataset.source(Split("given", tuple(records)))


def several(given: Paths) -> Sequence[str | os.PathLike[str]]:
    """Returns one thing or several as several."""
    return [given] if isinstance(given, str | os.PathLike) else given
