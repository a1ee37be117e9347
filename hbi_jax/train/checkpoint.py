"""Orbax checkpoints: saved asynchronously, keeping the latest and the best."""

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
    """A checkpoint that cannot be read or written. The message names the checkpoint, the reason and the remedy."""


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for pending saves on exit.

    Parameters and optimizer state are separate items, so that evaluation can read only the parameters.
    """

    def __init__(self, folder: str, best_metric: str):
        """Opens the checkpoint folder, creating it if needed.

        Args:
          folder: Path of the folder, local or in a bucket (gs://...).
          best_metric: The best checkpoint is the one with the largest value of this validation metric.

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
                f"cannot keep checkpoints in {folder} ({error}); choose a --workdir that is writable"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._explained("save"):
            self._manager.close()

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step of the checkpoint with the best validation, or the latest if none was validated."""
        best = self._manager.best_step()
        return self.latest_step() if best is None else best

    def save(self, state: TrainState, metrics: Mapping[str, float] | None = None) -> None:
        """Starts saving in the background; older checkpoints are kept until this one is complete.

        Does nothing if this step is already saved.

        Raises:
          CheckpointError: If this save or an earlier background save failed, or the best metric is missing.
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
        """Blocks until pending saves are complete.

        Raises:
          CheckpointError: If a save failed.
        """
        with self._explained("save"):
            self._manager.wait_until_finished()

    def restore(self, abstract: TrainState, step: int) -> TrainState:
        """Returns the saved state with the shardings of `abstract`; it may have been saved from other devices.

        Raises:
          CheckpointError: If the checkpoint does not hold this model's parameters, or cannot be read.
        """
        params = self.restore_params(abstract.params, step)
        items = ocp.args.Composite(opt_state=ocp.args.StandardRestore(abstract.opt_state))
        with self._explained("read"):
            opt_state = self._manager.restore(step, args=items)["opt_state"]
        start = jax.device_put(jnp.asarray(step, abstract.step.dtype), abstract.step.sharding)
        return TrainState(start, params, opt_state)

    def restore_params(self, abstract: PyTree, step: int) -> PyTree:
        """Returns the saved parameters with the shardings of `abstract`.

        Raises:
          CheckpointError: If the checkpoint does not hold this model's parameters, or cannot be read.
        """
        with self._explained("read"):
            saved = self._manager.item_metadata(step)["params"]
        difference = _describe_difference(_shapes(saved.tree), _shapes(abstract))
        if difference:
            raise CheckpointError(
                f"checkpoint {self.folder}/{step} is of another architecture than config.model: {difference}; "
                "use the configuration of its training, or another --workdir"
            )
        items = ocp.args.Composite(params=ocp.args.StandardRestore(abstract))
        with self._explained("read"):
            return self._manager.restore(step, args=items)["params"]

    def restore_saved(self, step: int) -> PyTree:
        """Returns the saved parameters of any model, replicated on every device.

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
            raise CheckpointError(
                f"could not {action} a checkpoint in {self.folder}: {reason}; {remedy[action]}"
            ) from error


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
