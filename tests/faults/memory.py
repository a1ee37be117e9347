"""Resident memory over many steps: a tiny model in the real loop, with the real data, checkpoints and loggers.

    python -m tests.faults.memory WORLD FOLDER STEPS

prints the resident memory early and late, and its largest rise, as JSON.
"""

import contextlib
import dataclasses
import functools
import gc
import itertools
import json
import os
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
    """A writer that looks at the memory of this process every so many steps."""

    def __init__(self, every: int):
        self.mib: list[tuple[int, float]] = []
        self._every = every

    def write_scalars(self, step: int, scalars: object) -> None:
        if step % self._every:
            return
        # What tracing left behind is freed at a moment of Python's choice, which would look like a fall. What outlives
        # the first look, such as the libraries' own objects, is not looked through again.
        gc.collect()
        if not self.mib:
            gc.freeze()
        # Without pages of files, such as libraries, which the kernel drops and reads again as it likes.
        resident = re.search(r"RssAnon:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())
        self.mib.append((step, int(resident[1]) / 1024))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def measure(world: pathlib.Path, folder: pathlib.Path, steps: int) -> dict[str, float]:
    """Trains for some steps and looks at the memory, in MiB.

    Returns:
      Medians of the second and the last tenth of the steps, and the largest rise from a tenth to any later one.
    """
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
    sampler = _Sampler(every=steps // 200)
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        Checkpoints(str(folder / "checkpoints"), METRIC) as checkpoints,
    ):
        writers = [
            ConsoleWriter(steps, stream=nowhere),
            JsonlWriter(folder / "metrics.jsonl"),
            TensorBoardWriter(folder / "tensorboard"),
            sampler,
        ]
        with contextlib.closing(MultiWriter(writers)) as writer:
            train(job, state, settings, checkpoints, writer)
    tenths = [
        statistics.median(mib for step, mib in sampler.mib if tenth < 10 * step / steps <= tenth + 1)
        for tenth in range(1, 10)
    ]
    rise = max(later / earlier - 1 for earlier, later in itertools.combinations(tenths, 2))
    return {"steps": steps, "early_mib": round(tenths[0], 1), "late_mib": round(tenths[-1], 1), "rise": round(rise, 4)}


if __name__ == "__main__":
    print(json.dumps(measure(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]))))
