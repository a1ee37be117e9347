"""Orbax checkpoints: saved asynchronously, the latest and the best both kept."""

import contextlib
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree

from hbi_jax.parallel.mesh import make_mesh, path_name, replicated
from hbi_jax.train.state import TrainState


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written: says which, why, and what to do."""


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for what is still being saved.

    Parameters and optimizer state are items of their own, so that evaluation reads the parameters alone.
    """

    def __init__(self, folder: str, best_metric: str):
        """Opens, and makes on demand, a folder of checkpoints.

        Args:
          folder: Local, or in a bucket (gs://...).
          best_metric: The validation metric whose largest value marks the best checkpoint.

        Raises:
          CheckpointError: If the folder cannot be used.
        """
        self.folder = folder

        def metric(metrics: Mapping[str, float]) -> float:
            if best_metric not in metrics:
                raise CheckpointError(
                    f"best_metric={best_metric!r} is not among the metrics of {folder}; use one of {', '.join(metrics)}"
                )
            return metrics[best_metric]

        self._metric = metric
        policies = ocp.checkpoint_managers
        best = policies.BestN(get_metric_fn=metric, n=1, keep_checkpoints_without_metrics=False)
        keep = policies.AnyPreservationPolicy([policies.LatestN(1), best])
        try:
            self._manager = ocp.CheckpointManager(
                epath.Path(folder).absolute(),
                item_names=("params", "opt_state"),
                item_handlers={
                    "params": ocp.StandardCheckpointHandler(),
                    "opt_state": ocp.StandardCheckpointHandler(),
                },
                options=ocp.CheckpointManagerOptions(preservation_policy=keep, best_fn=metric, best_mode="max"),
            )
        except OSError as error:
            raise CheckpointError(
                f"cannot keep checkpoints in {folder} ({error}); choose a --workdir that can be written"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._explained("save"):
            self._manager.close()

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, if there is any."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The one of the best validation; the latest where none was validated."""
        best = self._manager.best_step()
        return self.latest_step() if best is None else best

    def save(self, state: TrainState, metrics: Mapping[str, float] | None = None) -> None:
        """Starts saving in the background; older checkpoints stay until this one is complete.

        Does nothing where the step is saved already.

        Raises:
          CheckpointError: If this save, or an earlier one in the background, failed, or the best metric is missing.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        if metrics:
            self._metric(metrics)  # Raises before anything is written.
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params), opt_state=ocp.args.StandardSave(state.opt_state)
        )
        with self._explained("save"):
            self._manager.save(step, args=items, metrics=dict(metrics) if metrics else None, force=True)

    def wait(self) -> None:
        """Blocks until what was started is saved.

        Raises:
          CheckpointError: If it could not be saved.
        """
        with self._explained("save"):
            self._manager.wait_until_finished()

    def restore(self, abstract: TrainState, step: int) -> TrainState:
        """Reads a state onto the devices that `abstract` names, whatever devices it was saved from.

        Raises:
          CheckpointError: If it holds other parameters than this model's, or cannot be read.
        """
        params = self.restore_params(abstract.params, step)
        items = ocp.args.Composite(opt_state=ocp.args.StandardRestore(abstract.opt_state))
        with self._explained("read"):
            opt_state = self._manager.restore(step, args=items)["opt_state"]
        start = jax.device_put(jnp.asarray(step, abstract.step.dtype), abstract.step.sharding)
        return TrainState(start, params, opt_state)

    def restore_params(self, abstract: PyTree, step: int) -> PyTree:
        """Reads the parameters alone.

        Raises:
          CheckpointError: If they are another model's, or cannot be read.
        """
        with self._explained("read"):
            saved = self._manager.item_metadata(step)["params"]
        difference = _describe_difference(_shapes(saved.tree), _shapes(abstract))
        if difference:
            raise CheckpointError(
                f"checkpoint {self.folder}/{step} is of another architecture than config.model: {difference}; "
                "use the configuration that it was trained with, or another --workdir"
            )
        items = ocp.args.Composite(params=ocp.args.StandardRestore(abstract))
        with self._explained("read"):
            return self._manager.restore(step, args=items)["params"]

    def restore_saved(self, step: int) -> PyTree:
        """Reads the parameters alone, whatever model's they are, whole on every device.

        Raises:
          CheckpointError: If they cannot be read.
        """
        everywhere = replicated(make_mesh())
        with self._explained("read"):
            saved = self._manager.item_metadata(step)["params"].tree
            abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), saved)
            return self._manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore(abstract)))[
                "params"
            ]

    @contextlib.contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        """Turns whatever the storage layer raises into a message with a remedy."""
        remedy = {
            "save": "free some space there, then start the same command again: it goes on from the newest complete one",
            "read": "it may be damaged: move its folder away, then start the same command again to use the one before",
        }
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CheckpointError(
                f"could not {action} a checkpoint in {self.folder}: {reason}; {remedy[action]}"
            ) from error


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {path_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _describe_difference(saved: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> str:
    """A few of the parameters that differ; nothing where none does."""
    differences = [
        f"{name} is {saved[name]}, wanted {wanted[name]}"
        for name in sorted(saved)
        if name in wanted and saved[name] != wanted[name]
    ]
    differences += [f"{name} is missing" for name in sorted(wanted) if name not in saved]
    differences += [f"{name} is not part of the model" for name in sorted(saved) if name not in wanted]
    shown = "; ".join(differences[:3])
    return shown + (f"; and {len(differences) - 3} more" if len(differences) > 3 else "")
