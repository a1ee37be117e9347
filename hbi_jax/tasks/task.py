"""What a kind of job gives to a run; training, checkpoints, logs and reports are the same for all of them."""

import abc
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from hbi_jax import build
from hbi_jax.data.pipeline import train_batches
from hbi_jax.data.source import Source
from hbi_jax.evaluate.report import Gallery, Picture, Table
from hbi_jax.parallel import abstract_params
from hbi_jax.train.step import LossFn
from hbi_jax.types import AnswerBatch, Batch, CaptionBatch
from hbi_jax.weights import KINDS, initialize

_log = logging.getLogger(__name__)


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
      truncated: What is to be said of splits with texts that lose their end, by split, once `source` has seen them.
    """

    name: str

    def __init__(self, config: ConfigDict, mesh: Mesh, workdir: epath.Path):
        """Builds what is shared by training and evaluation."""
        self.config, self.mesh, self.workdir = config, mesh, workdir
        self.truncated: dict[str, str] = {}

    @classmethod
    def of_run(cls, config: ConfigDict, mesh: Mesh, workdir: epath.Path) -> "Task":
        """The task of a finished run, from its work folder alone: its data need not be there any more."""
        return cls(config, mesh, workdir)

    @abc.abstractmethod
    def init_params(self) -> PyTree:
        """Fresh parameters, a function of `config.seed` alone; traceable."""

    def load_init(self, params: PyTree) -> PyTree:
        """Puts the weights that `config.init` names in the place of fresh ones; nothing where it is empty."""
        init = self.config.init
        return initialize(params, self.config, init, "config.init") if init else params

    def load_converted(self, params: PyTree, path: str) -> PyTree:
        """Puts the weights of a converted folder, all of this task's model, in the place of fresh ones."""
        return initialize(params, self.config, path, "--checkpoint", KINDS[self.name])

    @abc.abstractmethod
    def loss_fn(self) -> LossFn:
        """The objective."""

    @abc.abstractmethod
    def validate(self, params: PyTree, source: Source) -> dict[str, float]:
        """Metrics of the validation split by name, `config.eval.best_metric` among them."""

    @abc.abstractmethod
    def evaluate(self, params: PyTree, label: str) -> Results:
        """Everything that the report says of parameters, which it calls by the label, such as "step 500"."""

    def placed(self, load: Callable[[PyTree], PyTree]) -> PyTree:
        """Fresh parameters after `load`, such as `load_init`, on the devices where training keeps them."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_params())
        return jax.device_put(load(jax.jit(self.init_params, out_shardings=shardings)()), shardings)

    def abstract_params(self) -> PyTree:
        """Shapes of the parameters, and where they lie."""
        return abstract_params(jax.eval_shape(self.init_params), self.mesh)

    def claim_workdir(self) -> None:  # noqa: B027
        """Writes into the work folder what, beside the configuration, its checkpoints need to be understood."""

    def check_workdir(self, workdir: epath.Path) -> None:  # noqa: B027
        """Raises where the checkpoints of a work folder mean something else than this task's parameters."""

    def abstract_batch(self) -> PyTree:
        """Shapes and dtypes of a global training batch."""
        return build.abstract_batch(self.config)

    def source(self, split: str) -> Source:
        """The rows of a split or gallery; says how many texts are too long for theirs."""
        source = build.source(self.config, build.split(self.config, split, str(self.workdir)))
        name, records, cut = source.split.name, source.split.records, len(source.truncated)
        if cut and name not in self.truncated:
            self.truncated[name] = (
                f"{cut:,} of {len(records):,} texts of {name!r} ({100 * cut / len(records):.1f} %) exceed "
                f"config.data.num_words={self.config.data.num_words} tokens and lose their end"
            )
            _log.warning("%s, such as %r", self.truncated[name], records[source.truncated[0]].text)
        return source

    def batches(self, source: Source, start_step: int) -> Iterator[Batch | AnswerBatch | CaptionBatch]:
        """This process's rows of the training batches that follow `start_step` steps; to be closed."""
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
        return build.galleries(self.config)
