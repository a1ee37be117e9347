"""Inference with a finished run on video files, shared by question answering and captioning."""

import logging
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from jax.sharding import Mesh
from jaxtyping import PyTree

from hbi_jax.data.dataset import Dataset
from hbi_jax.data.datasets import Record, Split
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer, clean
from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.tasks.config import Config, read_config
from hbi_jax.tasks.registry import TASKS
from hbi_jax.tasks.task import Task
from hbi_jax.tasks.weights import is_converted, open_checkpoint, workdir_of
from hbi_jax.train.checkpoint import CheckpointError

_log = logging.getLogger(__name__)

# Characters of a text in a message: all of an ordinary question, and not of a file that is pasted by mistake.
_SHOWN = 300
# One path, or several.
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Run(NamedTuple):
    """A finished run, opened for inference. Reuse it for repeated calls: it keeps its compiled functions.

    Attributes:
      config: Its configuration.
      task: The task, with its model and evaluator.
      params: The parameters of the checkpoint.
    """

    config: Config
    task: Task
    params: PyTree


def open_run(checkpoint: str | os.PathLike[str], task: str, batch_size: int = 8, mesh: Mesh | None = None) -> Run:
    """Opens a work folder for inference. The training data may be gone.

    Args:
      checkpoint: The work folder (its best checkpoint), or a step such as `runs/quickstart_qa/checkpoints/500`.
      task: The required value of `config.task`.
      batch_size: Videos or texts per batch, rounded up to a multiple of the mesh's data axis.
      mesh: The devices; None: all of them.

    Raises:
      CheckpointError: If there is no checkpoint, or it belongs to another task.
    """
    path = os.fspath(checkpoint)
    workdir = workdir_of(path)
    if is_converted(path):
        raise CheckpointError(
            f"{path} holds converted weights: wanted the work folder of a run, which also records how videos are "
            "read and what the answer numbers mean; evaluate the weights with --mode=evaluate --checkpoint"
        )
    try:
        config = read_config(workdir / "config.json")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not the work folder of a run: {workdir}/config.json cannot be read ({error}); give a folder "
            "that training wrote, such as runs/quickstart, or one of its steps"
        ) from error
    if config.task != task:
        raise CheckpointError(
            f"{path} is a checkpoint of config.task={config.task!r}: wanted {task!r}; give the work folder of such a "
            "run"
        )
    # Any number of the given videos may be unreadable.
    config = config.replace(eval__batch_size=batch_size, data__max_unreadable_rate=1.0)
    opened = TASKS[task].of_run(config, make_mesh() if mesh is None else mesh, workdir)
    with open_checkpoint(path, config.eval.best_metric) as (checkpoints, step):
        return Run(config, opened, checkpoints.restore_params(opened.abstract_params(), step))


def video_source(dataset: Dataset, videos: Paths, texts: Sequence[str] = ("video",)) -> Source:
    """Returns video files as a source for evaluators, sampled as the data set's configuration says.

    After the evaluation, the source's `unreadable` lists the videos that could not be read, by the path as given. Logs
    a warning for each text that is too long for the model.

    Args:
      dataset: The data set of the run's task.
      videos: The files.
      texts: Every video gets a record with each of these texts, in this order. Tasks that need no text use the
        default.

    Raises:
      ValueError: If there is no video or no text, or if a text is empty.
    """
    paths = [os.fspath(video) for video in several(videos)]
    if not paths:
        raise ValueError("videos: got none, wanted at least one; name some")
    check_texts(dataset.tokenizer, texts)
    records = [Record(text, path, pathlib.Path(path)) for path in paths for text in texts]
    return dataset.source(Split("given", tuple(records)))


def check_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """Checks texts for a model, and logs a warning for each that is too long for it.

    Raises:
      ValueError: If there is no text, or if a text is empty.
    """
    if not texts:
        raise ValueError("texts: got none, wanted at least one; name some")
    for number, text in enumerate(texts):
        if not clean(text):
            raise ValueError(f"text {number + 1} of {len(texts)}: got {text[:_SHOWN]!r}, wanted words; write some")
    for text in dict.fromkeys(texts):
        if tokenizer.truncated([text]):
            (kept,), _ = tokenizer.encode([text])
            _log.warning(
                "%r has more than config.data.num_words=%d tokens and loses its end: the model reads %r",
                text[:_SHOWN],
                tokenizer.num_words,
                tokenizer.decode(kept),
            )


def several(given: Paths) -> Sequence[str | os.PathLike[str]]:
    """Returns a single path as a list, and several unchanged."""
    return [given] if isinstance(given, str | os.PathLike) else given
