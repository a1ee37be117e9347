"""Orbax checkpoints: saved asynchronously, verified when they are read, keeping the latest ones and the best."""

import contextlib
import json
import logging
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree

from hbi_jax.parallel.mesh import make_mesh, path_name, replicated
from hbi_jax.parallel.processes import barrier, everywhere
from hbi_jax.train.digest import digests, not_finite, unlike
from hbi_jax.train.state import TrainState

_log = logging.getLogger(__name__)

# The item beside parameters and optimizer state: their digests, the metrics, and what the loop wants to remember.
_RECORD = "record"
# Processes and devices share the writing of a replicated array of at least as many bytes. Cutting up hundreds of small
# ones holds training for longer than writing them whole.
_SHARED_BYTES = 2**20


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written. The message names the checkpoint, the reason and the remedy."""


class Restored(NamedTuple):
    """A checkpoint that training resumes from.

    Attributes:
      state: The state.
      progress: What the loop gave to `Checkpoints.save`; empty if it gave nothing.
    """

    state: TrainState
    progress: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for pending saves on exit.

    Parameters and optimizer state are separate items, so that evaluation can read only the parameters. A third item
    holds digests of both, which are compared when they are read, so that damaged storage does not go unnoticed.
    """

    def __init__(self, folder: str, best_metric: str, keep: int = 2):
        """Opens the checkpoint folder, creating it if needed.

        Args:
          folder: Path of the folder, local or in a bucket (gs://...).
          best_metric: The best checkpoint is the one with the largest value of this validation metric.
          keep: Number of latest checkpoints to keep, besides the best one.

        Raises:
          CheckpointError: If the folder cannot be used.
        """
        self.folder = folder
        self._path = epath.Path(folder).absolute()

        def metric(metrics: Mapping[str, float]) -> float:
            if best_metric not in metrics:
                raise CheckpointError(
                    f"best_metric={best_metric!r} is not among the metrics of {folder}; use one of {', '.join(metrics)}"
                )
            # NaN has no place in an order: a checkpoint with it would displace the best one.
            return -math.inf if math.isnan(metrics[best_metric]) else metrics[best_metric]

        self._metric = metric
        policies = ocp.checkpoint_managers
        best = policies.BestN(get_metric_fn=metric, n=1, keep_checkpoints_without_metrics=False)
        kept = policies.AnyPreservationPolicy([policies.LatestN(keep), best])
        try:
            self._manager = ocp.CheckpointManager(
                self._path,
                item_names=("params", "opt_state", _RECORD),
                item_handlers={
                    "params": _handler(),
                    "opt_state": _handler(),
                    _RECORD: ocp.JsonCheckpointHandler(),
                },
                options=ocp.CheckpointManagerOptions(preservation_policy=kept, best_fn=metric, best_mode="max"),
            )
        except OSError as error:
            raise CheckpointError(
                f"cannot keep checkpoints in {folder} ({error}); choose a --workdir that is writable"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is not None and jax.process_count() > 1:
            # A save ends when all processes have done their part. One that fails must not wait for the others.
            return
        with self._explained("save"):
            self._manager.close()

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step of the checkpoint with the best validation, or the latest if none was validated."""
        best = self._manager.best_step()
        return self.latest_step() if best is None else best

    def save(
        self,
        state: TrainState,
        metrics: Mapping[str, float] | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts saving in the background; older checkpoints are kept until this one is complete.

        Does nothing if this step is already saved.

        Args:
          state: The state.
          metrics: Its validation metrics, if it was validated.
          progress: Values with a JSON form that `restore_latest` returns.

        Raises:
          CheckpointError: If this save or an earlier background save failed, or the best metric is missing.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        if metrics:
            self._metric(metrics)  # Raises before anything is written.
        record = {
            "digests": {"params": digests(state.params), "opt_state": digests(state.opt_state)},
            "metrics": dict(metrics or {}),
            "progress": dict(progress or {}),
        }
        items = ocp.args.Composite(
            params=ocp.args.PyTreeSave(state.params),
            opt_state=ocp.args.PyTreeSave(state.opt_state),
            **{_RECORD: ocp.args.JsonSave({"crc32": _crc32(record), **record})},
        )
        with self._explained("save"):
            self._manager.save(step, args=items, metrics=dict(metrics) if metrics else None, force=True)

    def wait(self) -> None:
        """Blocks until pending saves are complete.

        Raises:
          CheckpointError: If a save failed.
        """
        with self._explained("save"):
            self._manager.wait_until_finished()

    def restore_latest(self, abstract: TrainState) -> Restored | None:
        """Returns the newest checkpoint that is undamaged and finite, or None if there is no checkpoint.

        Checkpoints after it are renamed to `damaged-<step>`, with a warning. All processes return the same step.

        Raises:
          CheckpointError: If no checkpoint can be used; the message is that of the newest.
        """
        first = None
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found, problem = self._restore_finite(abstract, step), None
            except CheckpointError as error:
                found, problem = None, error
            # A file may be unreadable on one host only.
            if everywhere(problem is None):
                self._set_aside(after=step)
                return found
            problem = problem or CheckpointError(f"checkpoint {self.folder}/{step} cannot be read on another process")
            _log.warning("%s", problem)
            first = first or problem
        if first is not None:
            raise first
        return None

    def restore(self, abstract: TrainState, step: int) -> TrainState:
        """Returns the saved state with the shardings of `abstract`; it may have been saved from other devices.

        Raises:
          CheckpointError: If the checkpoint does not hold this model's parameters, is damaged, or cannot be read.
        """
        params = self.restore_params(abstract.params, step)
        opt_state = self._read(abstract.opt_state, step, "opt_state")
        start = jax.device_put(jnp.asarray(step, abstract.step.dtype), abstract.step.sharding)
        return TrainState(start, params, opt_state)

    def restore_params(self, abstract: PyTree, step: int) -> PyTree:
        """Returns the saved parameters with the shardings of `abstract`.

        Raises:
          CheckpointError: If the checkpoint does not hold this model's parameters, is damaged, or cannot be read.
        """
        with self._explained("read"):
            saved = self._manager.item_metadata(step)["params"]
            shapes = _shapes(saved.tree)
        difference = _describe_difference(shapes, _shapes(abstract))
        if difference:
            raise CheckpointError(
                f"checkpoint {self.folder}/{step} is of another architecture than config.model: {difference}; "
                "use the configuration of its training, or another --workdir"
            )
        return self._read(abstract, step, "params")

    def _restore_finite(self, abstract: TrainState, step: int) -> Restored:
        """Returns a checkpoint; raises CheckpointError if it is not finite, too."""
        state, record = self.restore(abstract, step), self._record(step)
        if name := not_finite(state):
            raise CheckpointError(
                f"checkpoint {self.folder}/{step} holds values of {name} that are not finite; move its folder away to "
                "use another one"
            )
        saved = dict(self._manager.metrics(step) or {})
        if record and json.dumps(saved, sort_keys=True) != json.dumps(record["metrics"], sort_keys=True):
            raise CheckpointError(f"checkpoint {self.folder}/{step} is damaged: its metrics differ from what was saved")
        return Restored(state, record.get("progress", {}))

    def _read(self, abstract: PyTree, step: int, item: str) -> PyTree:
        """Reads an item and compares it with its digests. Processes need not read at the same time."""
        with self._explained("read"):
            # Not by the manager, whose barrier would keep the others waiting for a process that cannot read.
            handler = ocp.StandardCheckpointHandler()
            tree = handler.restore(self._path / str(step) / item, args=ocp.args.StandardRestore(abstract))
            handler.close()
        if record := self._record(step):
            different = unlike(digests(tree), record["digests"][item])
            if different:
                raise CheckpointError(
                    f"checkpoint {self.folder}/{step} is damaged: its {item} differ from what was saved, in "
                    f"{different}; move its folder away to use another one"
                )
        return tree

    def _record(self, step: int) -> Mapping[str, Any]:
        """Returns the third item of a checkpoint; empty for checkpoints of versions that did not write it."""
        folder = self._path / str(step) / _RECORD
        if not folder.exists():
            return {}
        with self._explained("read"):
            record = json.loads((folder / "metadata").read_text())
            if record.pop("crc32", None) != _crc32(record):
                raise ValueError(f"{folder} is damaged")
        return record

    def _set_aside(self, after: int) -> None:
        """Renames the checkpoints after a step, so that they can be saved again."""
        later = [step for step in self._manager.all_steps() if step > after]
        if not later:
            return
        barrier("the damaged checkpoints are known")
        if jax.process_index() == 0:
            for step in later:
                names = (f"damaged-{step}" + (f"-{number}" if number else "") for number in range(1000))
                target = next(self._path / name for name in names if not (self._path / name).exists())
                with self._explained("save"):
                    (self._path / str(step)).rename(target)
                _log.warning("checkpoint %d was renamed to %s; going on from step %d", step, target, after)
        barrier("the damaged checkpoints are renamed")
        self._manager.reload()

    def restore_saved(self, step: int) -> PyTree:
        """Returns the saved parameters of any model, replicated on every device.

        Raises:
          CheckpointError: If they are damaged or cannot be read.
        """
        everywhere = replicated(make_mesh())
        with self._explained("read"):
            saved = self._manager.item_metadata(step)["params"].tree
            abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), saved)
        return self._read(abstract, step, "params")

    @contextlib.contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        """Turns errors of the storage layer into a `CheckpointError` with a remedy."""
        remedy = {
            "save": "free some space there, then run the same command again: it resumes from the newest complete one",
            "read": "it may be damaged: move its folder away, then run the same command again to use the previous one",
        }
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            reason = reason.partition(" [tensorstore_spec=")[0]
            raise CheckpointError(
                f"could not {action} a checkpoint in {self.folder}: {reason}; {remedy[action]}"
            ) from error


def _handler() -> ocp.PyTreeCheckpointHandler:
    """Returns what writes a tree of arrays."""
    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_SHARED_BYTES)
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    )


def _crc32(record: Mapping[str, Any]) -> int:
    """Returns the checksum of a record's JSON."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {path_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _describe_difference(saved: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> str:
    """Returns a description of up to three parameters that differ; empty if none does."""
    differences = [
        f"{name} is {saved[name]}, wanted {wanted[name]}"
        for name in sorted(saved)
        if name in wanted and saved[name] != wanted[name]
    ]
    differences += [f"{name} is missing" for name in sorted(wanted) if name not in saved]
    differences += [f"{name} is not part of the model" for name in sorted(saved) if name not in wanted]
    shown = "; ".join(differences[:3])
    return shown + (f"; and {len(differences) - 3} more" if len(differences) > 3 else "")
