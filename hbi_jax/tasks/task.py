"""What a kind of job gives to a run; training, checkpoints, logs and reports are the same for all of them."""

import abc
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from hbi_jax import build
from hbi_jax.data.pipeline import Batches, train_batches
from hbi_jax.data.source import Source
from hbi_jax.evaluate.report import Gallery, Picture, Table
from hbi_jax.parallel import abstract_params
from hbi_jax.train.step import LossFn
from hbi_jax.types import Batch


class Results(NamedTuple):
    """What an evaluation adds to the report; see `hbi_jax.evaluate.report.Report`."""

    dataset: dict[str, int]
    unreadable: dict[str, str]
    galleries: Sequence[Gallery] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    protocol: Sequence[str] = ()


class Task(abc.ABC):
    """A loss, an evaluator and the parameters that both need.

    Attributes:
      name: What `config.task` calls it.
      config: The configuration.
      mesh: The devices.
      workdir: Where results go.
    """

    name: str

    def __init__(self, config: ConfigDict, mesh: Mesh, workdir: epath.Path):
        """Builds what is shared by training and evaluation."""
        self.config, self.mesh, self.workdir = config, mesh, workdir

    @abc.abstractmethod
    def init_params(self) -> PyTree:
        """Fresh parameters, a function of `config.seed` alone; traceable."""

    def load_init(self, params: PyTree) -> PyTree:
        """Puts what `config.init` holds in the place of fresh parameters; nothing where it is empty."""
        return params

    @abc.abstractmethod
    def loss_fn(self) -> LossFn:
        """The objective."""

    @abc.abstractmethod
    def validate(self, params: PyTree, source: Source) -> dict[str, float]:
        """Metrics of the validation split by name, `config.eval.best_metric` among them."""

    @abc.abstractmethod
    def evaluate(self, params: PyTree, step: int) -> Results:
        """Everything that the report says of a checkpoint."""

    def abstract_params(self) -> PyTree:
        """Shapes of the parameters, and where they lie."""
        return abstract_params(jax.eval_shape(self.init_params), self.mesh)

    def source(self, split: str) -> Source:
        """The rows of a split or gallery."""
        return build.source(self.config, build.split(self.config, split, str(self.workdir)))

    def batches(self, source: Source, start_step: int) -> Batches[Batch]:
        """This process's rows of the training batches that follow `start_step` steps."""
        data = self.config.data
        return train_batches(
            source,
            self.config.train.batch_size,
            self.config.seed,
            start_step,
            jax.process_index(),
            jax.process_count(),
            data.num_workers,
            data.num_threads,
            augmentation=build.augmentation(self.config),
        )

    @functools.cached_property
    def galleries(self) -> tuple[str, ...]:
        """Names of the galleries that the report is about."""
        return tuple(self.config.data.galleries)
