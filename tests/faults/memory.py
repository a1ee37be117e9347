"""Resident memory over many steps: a tiny model in the real loop, with the real data, checkpoints and loggers.

    python -m tests.faults.memory WORLD FOLDER STEPS

prints medians of the early and late resident memory as JSON.
"""

import contextlib
import dataclasses
import functools
import io
import json
import pathlib
import re
import statistics
import sys

import jax
import jax.numpy as jnp
import optax
from etils import epath

from hbi_jax.parallel.mesh import make_mesh, put_batch
from hbi_jax.tasks.gallery import share_unreadable
from hbi_jax.tasks.registry import make_task
from hbi_jax.train.checkpoint import Checkpoints
from hbi_jax.train.config import TrainConfig
from hbi_jax.train.loop import Job, train
from hbi_jax.train.state import init_state, state_shardings
from hbi_jax.train.step import make_train_step
from hbi_jax.train.writers import ConsoleWriter, JsonlWriter, MultiWriter, TensorBoardWriter
from tests.faults.session import config_of

METRIC = "t2v/R@1"


def _init_params() -> dict:
    return {"params": {"color": jnp.zeros(3), "word": jnp.zeros(())}}


def _loss(params: dict, batch, key) -> tuple:
    p = params["params"]
    colors = jnp.mean(batch.frames.astype(jnp.float32) / 255, axis=(1, 2, 3))
    loss = jnp.mean((colors @ p["color"] + p["word"] - batch.text_mask.sum(axis=1) / 10) ** 2)
    return loss, {"loss/total": loss}


class _Sampler:
    """A writer that looks at the memory of this process."""

    def __init__(self):
        self.mib: list[tuple[int, float]] = []

    def write_scalars(self, step: int, scalars: object) -> None:
        resident = re.search(r"VmRSS:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())
        self.mib.append((step, int(resident[1]) / 1024))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def measure(world: pathlib.Path, folder: pathlib.Path, steps: int) -> dict[str, float]:
    """Trains for some steps and returns the medians of the memory in MiB, and the growth."""
    config = config_of("quickstart", str(world), {"data.cache_gib": 0.1, "train.batch_size": 4, "data.render": ""})
    mesh = make_mesh(1, 1, jax.devices()[:1])
    task = make_task(config, mesh, epath.Path(folder))
    source, tx = task.source("train"), optax.adam(1e-3)
    state = init_state(_init_params, tx, mesh)
    job = Job(
        step_fn=make_train_step(_loss, tx, mesh, state_shardings(state)),
        make_batches=functools.partial(task.batches, source),
        put_batch=functools.partial(put_batch, mesh=mesh),
        describe_batch=functools.partial(task.describe_batch, source),
        validate=lambda params: {METRIC: float(params["params"]["word"])},
        schedules={"learning_rate/new": lambda step: 1e-3},
        agree=functools.partial(share_unreadable, source),
    )
    settings = dataclasses.replace(
        TrainConfig(), num_steps=steps, log_every=5, eval_every=steps // 20, checkpoint_every=steps // 50
    )
    sampler = _Sampler()
    writers = [
        ConsoleWriter(steps, stream=io.StringIO()),
        JsonlWriter(folder / "metrics.jsonl"),
        TensorBoardWriter(folder / "tensorboard"),
        sampler,
    ]
    with (
        Checkpoints(str(folder / "checkpoints"), METRIC) as checkpoints,
        contextlib.closing(MultiWriter(writers)) as writer,
    ):
        train(job, state, settings, checkpoints, writer)
    early, late = (
        statistics.median(mib for step, mib in sampler.mib if low * steps <= step <= high * steps)
        for low, high in ((0.1, 0.3), (0.8, 1.0))
    )
    return {"steps": steps, "early_mib": round(early, 1), "late_mib": round(late, 1), "growth": late / early - 1}


if __name__ == "__main__":
    print(json.dumps(measure(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]))))
