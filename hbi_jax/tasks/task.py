"""What a task gives to a run; training, checkpoints, logs and reports are the same for all of them."""

import abc
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Int, PyTree

from hbi_jax.data.dataset import Dataset
from hbi_jax.data.pipeline import train_batches
from hbi_jax.data.source import Source
from hbi_jax.parallel.mesh import abstract_params
from hbi_jax.report.report import Gallery, Picture, Table
from hbi_jax.tasks.config import Config
from hbi_jax.tasks.weights import KINDS, initialize
from hbi_jax.train.step import LossFn
from hbi_jax.types import Batch

_log = logging.getLogger(__name__)

# The records of a batch's rows, and the batch as the loss takes it.
IndexedBatch = tuple[Int[np.ndarray, " b"], PyTree]


class Results(NamedTuple):
    """What an evaluation adds to the report; see `hbi_jax.report.report.Report`."""

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
      dataset: The data.
      truncated: For each split that `source` has opened, a sentence on its texts that are too long, if there are any.
    """

    name: str

    def __init__(self, config: Config, mesh: Mesh, workdir: epath.Path):
        """Builds what is shared by training and evaluation."""
        self.config, self.mesh, self.workdir = config, mesh, workdir
        self.dataset = Dataset(config.data, config.model.clip.image_size, str(workdir))
        self.truncated: dict[str, str] = {}

    @classmethod
    def of_run(cls, config: Config, mesh: Mesh, workdir: epath.Path) -> "Task":
        """Builds the task of a finished run from its work folder alone: its data need not be there any more."""
        return cls(config, mesh, workdir)

    @abc.abstractmethod
    def init_params(self) -> PyTree:
        """Returns fresh parameters, a function of `config.seed` alone; traceable."""

    def load_init(self, params: PyTree) -> PyTree:
        """Replaces fresh parameters by the weights that `config.init` names, if it names some."""
        init = self.config.init
        return initialize(params, self.config, init, "config.init") if init else params

    def load_converted(self, params: PyTree, path: str) -> PyTree:
        """Replaces fresh parameters by the weights of a converted folder, which must be of this task's model."""
        return initialize(params, self.config, path, "--checkpoint", KINDS[self.name])

    @abc.abstractmethod
    def loss_fn(self) -> LossFn:
        """Returns the objective."""

    @abc.abstractmethod
    def validate(self, params: PyTree, source: Source) -> dict[str, float]:
        """Returns metrics of the validation split by name, `config.eval.best_metric` among them."""

    @abc.abstractmethod
    def evaluate(self, params: PyTree, label: str) -> Results:
        """Returns everything that the report says of parameters, which it calls by the label, such as "step 500"."""

    def placed(self, load: Callable[[PyTree], PyTree]) -> PyTree:
        """Returns fresh parameters after `load`, such as `load_init`, on the devices where training keeps them."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_params())
        return jax.device_put(load(jax.jit(self.init_params, out_shardings=shardings)()), shardings)

    def abstract_params(self) -> PyTree:
        """Returns the shapes of the parameters, with their shardings."""
        return abstract_params(jax.eval_shape(self.init_params), self.mesh)

    def claim_workdir(self) -> None:  # noqa: B027
        """Writes into the work folder what, beside the configuration, its checkpoints need to be understood."""

    def check_workdir(self, workdir: epath.Path) -> None:  # noqa: B027
        """Raises if the checkpoints of a work folder mean something else than this task's parameters."""

    def abstract_batch(self) -> PyTree:
        """Returns shapes and dtypes of a global training batch."""
        return abstract_batch(self.config)

    def source(self, split: str) -> Source:
        """Opens a split or gallery; warns if some of its texts are too long."""
        source = self.dataset.source(self.dataset.split(split))
        name, records, cut = source.split.name, source.split.records, len(source.truncated)
        if cut and name not in self.truncated:
            self.truncated[name] = (
                f"{cut:,} of {len(records):,} texts of {name!r} ({100 * cut / len(records):.1f} %) exceed "
                f"config.data.num_words={self.config.data.num_words} tokens and lose their end"
            )
            _log.warning("%s, such as %r", self.truncated[name], records[source.truncated[0]].text)
        return source

    def batches(self, source: Source, start_step: int) -> Iterator[IndexedBatch]:
        """Yields this process's rows of the training batches that follow `start_step` steps; close it after use."""
        data = self.config.data
        batches = train_batches(
            source,
            self.config.train.batch_size,
            seed=self.config.seed,
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_workers=data.num_workers,
            num_threads=data.num_threads,
            augmentation=self.dataset.augmentation,
        )
        complete = self.completion(source)
        with contextlib.closing(batches):
            for step, batch in enumerate(batches, start_step):
                yield batch.record_index, complete(batch, step)

    def completion(self, source: Source) -> Callable[[Batch, int], PyTree]:
        """Returns the function that adds to the matched rows of a step what else the loss needs."""
        del source
        return lambda batch, step: batch


def abstract_batch(config: Config) -> Batch:
    """Returns shapes and dtypes of a global batch of matched rows."""
    b, t, f, size = config.train.batch_size, config.data.num_words, config.data.num_frames, config.model.clip.image_size
    shapes = Batch(
        token_ids=((b, t), np.int32),
        text_mask=((b, t), bool),
        frames=((b, f, size, size, 3), np.uint8),
        frame_mask=((b, f), bool),
        video_index=((b,), np.int32),
        record_index=((b,), np.int32),
        example_mask=((b,), bool),
    )
    return Batch(*(jax.ShapeDtypeStruct(*shape) for shape in shapes))


def init_model(model: nn.Module, config: Config) -> PyTree:
    """Initialises a model on matched rows; a function of `config.seed` alone."""
    # Parameters do not depend on the number of rows.
    batch = jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape[1:]), leaf.dtype), abstract_batch(config))
    return model.init(jax.random.key(config.seed), batch)
