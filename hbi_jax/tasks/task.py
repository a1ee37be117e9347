"""The interface of a task; training, checkpoints, logs and reports are shared by all tasks."""

import abc
import contextlib
import functools
import hashlib
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Int, PyTree

from hbi_jax import fields
from hbi_jax.data.dataset import Dataset
from hbi_jax.data.pipeline import batch_records, train_batches
from hbi_jax.data.source import Source
from hbi_jax.fields import ConfigError
from hbi_jax.parallel.mesh import abstract_params, local_rows
from hbi_jax.report.report import Gallery, Picture, Table
from hbi_jax.tasks.config import Config
from hbi_jax.tasks.features import FeatureFile
from hbi_jax.tasks.gallery import GalleryEncoder, Program
from hbi_jax.tasks.weights import initialize, kind_of_run
from hbi_jax.train.optimizer import is_frozen
from hbi_jax.train.step import LossFn
from hbi_jax.types import Batch

_log = logging.getLogger(__name__)

VISION_TOWER = "vision_tower"

# The record index of each row, and the batch that the loss takes.
IndexedBatch = tuple[Int[np.ndarray, " b"], PyTree]


class Results(NamedTuple):
    """The part of a report that an evaluation provides; see `hbi_jax.report.report.Report`."""

    dataset: dict[str, int]
    unreadable: dict[str, str]
    galleries: Sequence[Gallery] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    protocol: Sequence[str] = ()


class Task(abc.ABC):
    """A task: its parameters, loss, validation and evaluation.

    Attributes:
      name: The value of `config.task` that selects this task.
      config: The configuration.
      mesh: The devices.
      workdir: The folder of the results.
      dataset: The data.
      truncated: By split opened through `source`: a sentence that counts its truncated texts. Splits without
        truncated texts are absent.
    """

    name: str

    def __init__(self, config: Config, mesh: Mesh, workdir: epath.Path):
        """Builds what training and evaluation share."""
        self.config, self.mesh, self.workdir = config, mesh, workdir
        self.dataset = Dataset(config.data, config.model.clip.image_size, str(workdir))
        self.truncated: dict[str, str] = {}

    @classmethod
    def of_run(cls, config: Config, mesh: Mesh, workdir: epath.Path) -> "Task":
        """Builds the task of a finished run from its work folder alone; the data set may be gone."""
        return cls(config, mesh, workdir)

    @classmethod
    def without_data(cls, config: Config, mesh: Mesh, workdir: epath.Path) -> tuple["Task", list[str]]:
        """Builds the task for its shapes and programs alone, from the configuration.

        Returns:
          The task, and a sentence for each size that only the data would tell.
        """
        return cls(config, mesh, workdir), []

    @abc.abstractmethod
    def init_params(self) -> PyTree:
        """Returns freshly initialised parameters. They depend only on `config.seed`; the function can be traced."""

    def load_init(self, params: PyTree) -> PyTree:
        """Returns `params` with the weights of `config.init` in place, or unchanged if `config.init` is empty."""
        init = self.config.init
        return initialize(params, self.config, init, "config.init") if init else params

    def load_converted(self, params: PyTree, path: str) -> PyTree:
        """Returns `params` with the weights of a converted folder in place; the folder must hold this task's model."""
        return initialize(params, self.config, path, "--checkpoint", kind_of_run(self.config))

    @abc.abstractmethod
    def loss_fn(self) -> LossFn:
        """Returns the loss function, `(params, batch, key) -> (loss, scalars)`."""

    @abc.abstractmethod
    def validate(self, params: PyTree, source: Source) -> dict[str, float]:
        """Returns the metrics of the validation split by name, including `config.eval.best_metric`."""

    @abc.abstractmethod
    def evaluate(self, params: PyTree, label: str) -> Results:
        """Evaluates parameters on every gallery. The report calls them by the label, such as "step 500"."""

    def placed(self, load: Callable[[PyTree], PyTree]) -> PyTree:
        """Returns fresh parameters after `load`, such as `load_init`, with the shardings of training."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_params())
        return jax.device_put(load(jax.jit(self.init_params, out_shardings=shardings)()), shardings)

    def abstract_params(self) -> PyTree:
        """Returns the shapes, dtypes and shardings of the parameters."""
        return abstract_params(jax.eval_shape(self.init_params), self.mesh, self.config.mesh.fsdp)

    def evaluation_programs(self) -> dict[str, Program]:
        """Returns the programs of an evaluation by name."""
        encoder = GalleryEncoder(self.model, self.mesh, self.config.eval.batch_size)
        return encoder.programs(self.abstract_params(), self.abstract_rows(encoder.batch_size))

    def abstract_rows(self, num_rows: int) -> Batch:
        """Returns the shapes and dtypes of matched rows, with the videos as pixels."""
        return abstract_batch(self.config.replace(train__batch_size=num_rows), pixels=True)

    def claim_workdir(self) -> None:  # noqa: B027
        """Writes the files that are needed to interpret the checkpoints, besides the configuration."""

    def check_workdir(self, workdir: epath.Path) -> None:  # noqa: B027
        """Raises if this task would interpret the checkpoints of a work folder differently."""

    def abstract_batch(self) -> PyTree:
        """Returns the shapes and dtypes of a global training batch."""
        return abstract_batch(self.config)

    def source(self, split: str) -> Source:
        """Opens a split or gallery. Warns if some of its texts are truncated."""
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
        """Yields this process's rows of the training batches after `start_step`. Close the iterator after use."""
        data = self.config.data
        batches = train_batches(
            source,
            self.config.train.batch_size,
            seed=self.config.seed,
            start_step=start_step,
            mine=local_rows(self.mesh, self.config.train.batch_size),
            num_workers=0 if source.features else data.num_workers,
            num_threads=data.num_threads,
            augmentation=self.dataset.augmentation,
            num_views=data.num_views,
        )
        complete = self.completion(source)
        with contextlib.closing(batches):
            for step, batch in enumerate(batches, start_step):
                yield batch.record_index, complete(batch, step)

    def cache_features(self, params: PyTree, source: Source) -> None:
        """Gives a source the vision tower's features of its videos, if `config.data.cache_features` asks for them.

        Raises:
          ConfigError: If the tower is trained, so that its features change.
          DataError: If too many videos are unreadable.
        """
        config = self.config
        if not config.data.cache_features:
            return
        frozen = is_frozen(params, config.optimizer.frozen)["params"]
        if not all(jax.tree.leaves(frozen[VISION_TOWER])):
            raise ConfigError(
                f"config.data.cache_features=True: wanted a frozen vision tower, got config.optimizer.frozen="
                f"{config.optimizer.frozen!r}; add {VISION_TOWER!r} to it, or turn the cache off"
            )
        file = None
        if config.data.feature_folder and jax.process_count() == 1:
            folder = pathlib.Path(config.data.feature_folder).expanduser()
            file = FeatureFile(folder, source, _describe_tower(config, params))
            if file.read(source):
                return
        encoder = GalleryEncoder(self.model, self.mesh, config.eval.batch_size)
        source.use_features(encoder.frame_features(params, source, config.data.num_threads))
        if file is not None:
            file.write(source)

    def describe_batch(self, source: Source, step: int) -> str:
        """Returns the names of the videos of the global batch of a step, counted from 1."""
        records = batch_records(source, self.config.train.batch_size, self.config.seed, step - 1)
        return ", ".join(dict.fromkeys(source.split.records[record].video_id for record in records.tolist()))

    def completion(self, source: Source) -> Callable[[Batch, int], PyTree]:
        """Returns a function `(batch, step) -> batch` that adds whatever else the loss needs to the matched rows."""
        del source
        return lambda batch, step: batch


def _describe_tower(config: Config, params: PyTree) -> dict[str, Any]:
    """Returns, as JSON, what frame features depend on beside the frames."""
    weights = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["params"][VISION_TOWER]):
        weights.update(jax.tree_util.keystr(path).encode())
        weights.update(np.ascontiguousarray(jax.device_get(leaf)).data)
    model = config.model
    own = None if model.matmul_precision == "default" else model.matmul_precision
    precision = own or jax.config.jax_default_matmul_precision or "default"
    return {
        "weights": weights.hexdigest(),
        "clip": fields.plain(model.clip),
        "numbers": [
            model.padding,
            str(model.dtype),
            precision,
            model.attention,
            jax.default_backend(),
        ],
        "blank": config.task == "answers" and config.answers.question_only,
    }


def abstract_batch(config: Config, *, pixels: bool = False) -> Batch:
    """Returns the shapes and dtypes of a global batch of matched rows.

    Args:
      config: The configuration.
      pixels: Whether frames are pixels even if features are cached.
    """
    b, t, f, size = config.train.batch_size, config.data.num_words, config.data.num_frames, config.model.clip.image_size
    frames, mask = jax.ShapeDtypeStruct((b, f, size, size, 3), np.uint8), jax.ShapeDtypeStruct((b, f), bool)
    if config.data.cache_features and not pixels:
        frames = jax.ShapeDtypeStruct((b, f, config.model.clip.embed_features), np.float32)
    index = jax.ShapeDtypeStruct((b,), np.int32)
    two_views = config.data.num_views == 2
    return Batch(
        token_ids=jax.ShapeDtypeStruct((b, t), np.int32),
        text_mask=jax.ShapeDtypeStruct((b, t), bool),
        frames=frames,
        frame_mask=mask,
        video_index=index,
        record_index=index,
        example_mask=jax.ShapeDtypeStruct((b,), bool),
        second_frames=frames if two_views else None,
        second_mask=mask if two_views else None,
    )


def init_model(model: nn.Module, config: Config) -> PyTree:
    """Initialises a model on a batch of matched rows. The result depends only on `config.seed`."""
    return _init_model(model, abstract_batch(config, pixels=True), config.seed)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _init_model(model: nn.Module, shapes: Batch, seed: int) -> PyTree:
    # Compiled as part of what calls it, and traced once for all of them: shapes, state, and the untrained model.
    # Parameters do not depend on the number of rows.
    batch = jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape[1:]), leaf.dtype), shapes)
    return model.init(jax.random.key(seed), batch)
