"""The loop on a linear model: what happens when, stopping and going on, numbers that are none."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hbi_jax.parallel.mesh import make_mesh, put_batch
from hbi_jax.train.checkpoint import CheckpointError, Checkpoints
from hbi_jax.train.config import TrainConfig
from hbi_jax.train.loop import Job, train
from hbi_jax.train.preemption import PreemptedError, StopRequest
from hbi_jax.train.state import abstract_state, init_state, state_shardings
from hbi_jax.train.step import make_train_step
from hbi_jax.train.window import NonFiniteError
from hbi_jax.types import Batch

METRIC = "t2v/R@1"
TX = optax.adam(0.05)
ROWS = 4


def init_params():
    return {"params": {"weight": jnp.zeros(3), "bias": jnp.zeros(())}}


def loss_fn(params, batch, key):
    """Least squares: the "words" are features, the number of the video is the target."""
    p = params["params"]
    x = batch.token_ids.astype(jnp.float32) / 10
    loss = jnp.mean((x @ p["weight"] + p["bias"] - batch.video_index) ** 2)
    # Row 10,000 stands for a video that breaks the loss, row 10,001 for one that breaks the gradient.
    loss = jnp.where(jnp.any(batch.record_index == 10_000), jnp.nan, loss)
    # A root at 0, times 0: a gradient that is no number under a loss that is one.
    root = jnp.sqrt(jnp.where(jnp.any(batch.record_index == 10_001), 0.0, 1.0) + 0 * p["bias"])
    loss = loss + 0 * root
    return loss, {"loss/total": loss, "weight_norm": jnp.sum(p["weight"] ** 2)}


def batch_of(step):
    """What the pipeline gives for step number `step`, whoever asks."""
    rng = np.random.default_rng(step)
    ids = rng.integers(0, 10, (ROWS, 3)).astype(np.int32)
    return Batch(
        token_ids=ids,
        text_mask=np.ones((ROWS, 3), bool),
        frames=np.zeros((ROWS, 1, 1, 1, 3), np.uint8),
        frame_mask=np.ones((ROWS, 1), bool),
        video_index=ids.sum(1).astype(np.int32),
        record_index=np.arange(ROWS * step, ROWS * (step + 1), dtype=np.int32),
        example_mask=np.ones(ROWS, bool),
    )


class Recorder:
    """A metric writer that keeps its rows."""

    def __init__(self):
        self.rows = []

    def write_scalars(self, step, scalars):
        self.rows.append((step, {name: float(value) for name, value in scalars.items()}))

    def flush(self):
        pass

    def close(self):
        pass

    def training(self, until=1000):
        return [(step, row) for step, row in self.rows if "loss/total" in row and step <= until]

    def of(self, name):
        return {step: scalars[name] for step, scalars in self.rows if name in scalars}


class World:
    """One task on one device.

    `at` says what else happens when the batch of a step is made, in the thread that makes it, and `during` what happens
    in the step itself.
    """

    def __init__(self):
        self.mesh = make_mesh(1, 1, jax.devices()[:1])
        self.abstract = abstract_state(init_params, TX, self.mesh)
        self.first = jax.tree.map(np.asarray, init_state(init_params, TX, self.mesh))
        shardings = state_shardings(self.abstract)
        self.step_fn = make_train_step(loss_fn, TX, self.mesh, shardings)
        self.skipping = make_train_step(loss_fn, TX, self.mesh, shardings, skip_nonfinite=True)

    def run(self, folder, config, at=None, during=None, **changes):
        """Trains from the folder's last checkpoint, or from the start; gives what one may ask about it."""
        self.closed = self.started_at = None
        self.losses, self.rows, self.validated, self.writer = {}, {}, [], Recorder()
        at, during = at or {}, during or {}

        def make_batches(start):
            self.started_at = start
            try:
                for step in range(start + 1, 1000):
                    batch = batch_of(step)
                    if step in at:
                        batch = at[step](batch) or batch
                    self.rows[step] = batch.record_index
                    yield batch.record_index, batch
            finally:
                self.closed = True

        def step_fn(state, batch):
            if (number := int(state.step) + 1) in during:
                during[number]()
            state, scalars = (self.skipping if config.skip_nonfinite else self.step_fn)(state, batch)
            self.losses[int(state.step)] = float(scalars["loss/total"])
            return state, scalars

        def validate(params):
            self.validated.append(float(params["params"]["bias"]))
            return {METRIC: float(len(self.validated)), "Rsum": 1.0}

        job = Job(
            step_fn=step_fn,
            make_batches=make_batches,
            put_batch=lambda batch: put_batch(batch, self.mesh),
            describe_batch=lambda step: "videos " + ", ".join(f"video{row}" for row in self.rows[step]),
            validate=validate,
            schedules={"learning_rate/new": lambda step: 0.5 * step},
        )
        job = dataclasses.replace(job, **changes)
        with Checkpoints(str(folder), METRIC, config.keep) as self.checkpoints:
            found = self.checkpoints.restore_latest(self.abstract)
            state, progress = found or (jax.device_put(self.first, state_shardings(self.abstract)), None)
            state, summary = train(job, state, config, self.checkpoints, self.writer, progress)
        return jax.tree.map(np.asarray, state), summary


@pytest.fixture(scope="module")
def world():
    return World()


def steps_in(folder):
    return sorted(int(name) for name in os.listdir(folder) if name.isdigit())


@pytest.fixture
def saves(monkeypatch):
    """Steps that were saved, with whether they had metrics."""
    made, save = [], Checkpoints.save

    def noted(self, state, metrics=None, progress=None):
        made.append((int(state.step), metrics is not None))
        save(self, state, metrics, progress)

    monkeypatch.setattr(Checkpoints, "save", noted)
    return made


def stop(number):
    return lambda: os.kill(os.getpid(), number)


CONFIG = TrainConfig(num_steps=9, log_every=2, eval_every=4, checkpoint_every=3)


def test_what_happens_when(world, tmp_path, saves):
    """Rows every 2 and before every save; validation every 4 and at the end; saves every 3 and with validations."""
    state, summary = world.run(tmp_path, CONFIG)
    assert list(world.writer.of("loss/total")) == [2, 3, 4, 6, 8, 9]
    assert list(world.writer.of(f"val/{METRIC}")) == [4, 8, 9]
    assert saves == [(3, False), (4, True), (6, False), (8, True), (9, True)]
    assert len(world.validated) == 3
    assert world.validated[-1] == state.params["params"]["bias"]
    # The metric counts validations: the last is the best, and the one before is kept beside it.
    assert steps_in(tmp_path) == [8, 9]
    assert (world.started_at, world.closed, int(state.step)) == (0, True, 9)
    assert summary.steps == 9
    assert 0 <= summary.wait_seconds <= summary.step_seconds <= summary.seconds


def test_rows_hold_averages_since_the_row_before(world, tmp_path):
    world.run(tmp_path, CONFIG)
    rows, before = world.writer.of("loss/total"), 0
    assert len(world.losses) == 9
    for step, value in rows.items():
        window = [world.losses[number] for number in range(before + 1, step + 1)]
        np.testing.assert_allclose(value, np.mean(window), rtol=1e-6)
        before = step
    assert len(set(rows.values())) == len(rows)


def test_rates_are_those_of_the_update_just_made(world, tmp_path):
    """The first update has the schedule's value at 0."""
    world.run(tmp_path, CONFIG)
    assert world.writer.of("learning_rate/new") == {step: 0.5 * (step - 1) for step in (2, 3, 4, 6, 8, 9)}


def test_without_validation_there_is_one_at_the_end(world, tmp_path, saves):
    world.run(tmp_path, dataclasses.replace(CONFIG, eval_every=0))
    assert list(world.writer.of(f"val/{METRIC}")) == [9]
    assert saves == [(3, False), (6, False), (9, True)]


@pytest.mark.parametrize("stopped_at", [1, 3, 5, 7, 8])
def test_stopped_and_gone_on_is_uninterrupted(world, tmp_path, stopped_at):
    """Bit by bit, parameters, moments and log rows; the signal arrives in a step."""
    wanted, _ = world.run(tmp_path / "whole", CONFIG)
    rows, folder = world.writer.training(), tmp_path / "stopped"
    with pytest.raises(PreemptedError, match=rf"stopped at step {stopped_at} of 9 as asked.*same command") as raised:
        world.run(folder, CONFIG, during={stopped_at: stop(signal.SIGTERM)})
    assert raised.value.exit_code == 128 + 15
    assert world.closed
    assert stopped_at in steps_in(folder)
    before = world.writer.training(until=stopped_at)
    got, summary = world.run(folder, CONFIG)
    assert before + world.writer.training() == rows
    assert (world.started_at, summary.steps) == (stopped_at, 9 - stopped_at)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert np.abs(got.params["params"]["weight"]).min() > 0.1


def test_stopped_at_the_last_step_is_finished(world, tmp_path):
    state, _ = world.run(tmp_path, CONFIG, during={9: stop(signal.SIGTERM)})
    assert int(state.step) == 9
    assert world.writer.of(f"val/{METRIC}")[9] == 3


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background"])
def interrupts(request):
    """SIGINT as the process was started with it: a script's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, before)


def test_the_first_interrupt_stops_and_the_second_kills(world, tmp_path, interrupts):
    with pytest.raises(PreemptedError, match="stopped at step 4") as raised:
        world.run(tmp_path / "first", CONFIG, during={4: stop(signal.SIGINT)})
    assert raised.value.exit_code == 128 + 2

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        world.run(tmp_path / "second", CONFIG, during={4: twice})
    assert world.closed
    assert steps_in(tmp_path / "second") == [3]
    assert signal.getsignal(signal.SIGINT) == interrupts


def test_handlers_are_as_before():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest() as request:
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] != before
        assert not request.at(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.at(2)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("bad_step", [5, 6, 9])
def test_a_loss_that_is_no_number_stops_the_run(world, tmp_path, saves, bad_step):
    """Found at the next row and named by its own step and videos; what it made is not saved."""
    bad = {bad_step: lambda batch: batch._replace(record_index=np.array([1, 10_000, 7, 3], np.int32))}
    videos = "videos video1, video10000, video7, video3"
    with pytest.raises(NonFiniteError, match=rf"loss/total is nan at step {bad_step}; its batch held {videos}\."):
        world.run(tmp_path, CONFIG, at=bad)
    # It is found while the next steps are queued, long before the next row.
    assert max(world.rows) <= bad_step + 2
    last = max(step for step, _ in saves)
    assert last == max(step for step in (3, 4, 6, 8) if step < bad_step)
    assert last in steps_in(tmp_path)
    assert max(world.writer.of("loss/total")) < bad_step
    assert world.closed
    # Without the bad video the same command goes on from there.
    state, summary = world.run(tmp_path, CONFIG)
    assert summary.steps == 9 - last
    assert np.all(np.isfinite(state.params["params"]["weight"]))


def gradient_breaks(batch):
    return batch._replace(record_index=np.array([1, 10_001, 7, 3], np.int32))


@pytest.mark.parametrize("bad_step", [3, 5, 9])
def test_a_gradient_that_is_no_number_stops_the_run_at_its_step(world, tmp_path, saves, bad_step):
    """Its loss is finite, and it may be a step of a checkpoint: that state is not kept."""
    with pytest.raises(NonFiniteError, match=rf"gradient_norm is nan at step {bad_step}; .*video10001.*skip_nonfinite"):
        world.run(tmp_path, CONFIG, at={bad_step: gradient_breaks})
    assert np.isfinite(world.losses[bad_step])
    assert max([0, *(step for step, _ in saves)]) < bad_step
    state, _ = world.run(tmp_path, CONFIG)
    assert np.all(np.isfinite(state.params["params"]["weight"]))


def test_a_gradient_whose_square_is_no_number_stops_the_run(world, tmp_path, saves):
    """It is finite, and too large for the optimizer's second moment."""

    def large(batch):
        return batch._replace(video_index=np.full(ROWS, 2**31 - 1, np.int32))

    def overflowing(params, batch, key):
        loss, scalars = loss_fn(params, batch, key)
        factor = jnp.where(batch.video_index[0] == 2**31 - 1, 1e12, 1.0)
        return factor * loss, scalars | {"loss/total": factor * loss}

    step_fn = make_train_step(overflowing, TX, world.mesh, state_shardings(world.abstract))
    with pytest.raises(NonFiniteError, match="gradient_norm is inf at step 4"):
        world.run(tmp_path, CONFIG, at={4: large}, step_fn=step_fn)
    assert max(step for step, _ in saves) == 3


@pytest.mark.parametrize("broken", ["weight", "bias"])
def test_an_update_that_is_no_number_stops_the_run(world, tmp_path, saves, broken):
    """Loss and gradient are finite; one element of one parameter is not."""

    def update(gradients, state, params):
        updates, new = TX.update(gradients, state, params)
        one = updates["params"][broken]
        place = (1,) if one.ndim else ()
        one = one.at[place].set(jnp.where(new[0].count == 4, jnp.inf, one[place]))
        return {"params": updates["params"] | {broken: one}}, new

    tx = optax.GradientTransformation(TX.init, update)
    step_fn = make_train_step(loss_fn, tx, world.mesh, state_shardings(world.abstract))
    with pytest.raises(NonFiniteError, match="an updated parameter is not finite at step 4; its batch held"):
        world.run(tmp_path, CONFIG, step_fn=step_fn)
    assert max(step for step, _ in saves) == 3


def test_a_few_bad_steps_are_skipped_and_counted(world, tmp_path, caplog):
    """Such a step changes nothing, is in no average, and is counted through a stop."""
    config = dataclasses.replace(CONFIG, skip_nonfinite=2)
    bad = {2: gradient_breaks, 5: gradient_breaks}
    with pytest.raises(PreemptedError):
        world.run(tmp_path / "stopped", config, at=bad, during={6: stop(signal.SIGTERM)})
    assert "step 5; its batch held" in caplog.text
    assert "skipped (2 of at most 2)" in caplog.text
    got, summary = world.run(tmp_path / "stopped", config)
    assert summary.skipped == (2, 5)
    wanted, _ = world.run(tmp_path / "whole", config, at=bad)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert int(got.opt_state[0].count) == 7
    assert world.writer.of("loss/total")[2] == pytest.approx(world.losses[1])
    # The rate is that of the updates made.
    assert world.writer.of("learning_rate/new")[9] == 0.5 * 6
    with pytest.raises(NonFiniteError, match=r"at step 7; .*has skipped 2 such steps, as many as"):
        world.run(tmp_path / "third", config, at={**bad, 7: gradient_breaks})


def test_skipping_changes_no_good_step(world, tmp_path):
    plain, _ = world.run(tmp_path / "plain", CONFIG)
    skipping, _ = world.run(tmp_path / "skipping", dataclasses.replace(CONFIG, skip_nonfinite=1))
    jax.tree.map(np.testing.assert_array_equal, plain, skipping)


def test_what_is_not_validated_has_no_row(world, tmp_path):
    world.run(tmp_path, CONFIG, validate=lambda params: {})
    assert [step for step, _ in world.writer.rows] == [2, 3, 4, 6, 8, 9]


def test_processes_agree_before_every_row(world, tmp_path):
    """At the same steps on all of them, as they wait for each other."""
    agreed = []
    world.run(tmp_path, CONFIG, agree=lambda: agreed.append(max(world.losses)))
    assert agreed == [2, 3, 4, 6, 8, 9]


def test_a_checkpoint_records_what_the_job_knows(world, tmp_path):
    found = iter(range(1, 100))
    world.run(tmp_path, CONFIG, facts=lambda: {"videos": next(found)})
    with Checkpoints(str(tmp_path), METRIC, CONFIG.keep) as checkpoints:
        progress = checkpoints.restore_latest(world.abstract).progress
    # Steps 3, 4, 6, 8 and 9 were saved.
    assert progress["videos"] == 5
    assert progress["skipped"] == []


def test_a_checkpoint_that_cannot_be_saved_stops_the_run(world, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", full)
    with pytest.raises(CheckpointError, match="No space left on device; free some space"):
        world.run(tmp_path, CONFIG)
    assert max(world.losses) == 3
    assert world.closed


def test_a_batch_that_cannot_be_made_stops_the_run(world, tmp_path):
    """Its own error comes out, and what was saved before it stays."""

    def broken(batch):
        raise ValueError("video 7 cannot be read")

    with pytest.raises(ValueError, match="video 7 cannot be read"):
        world.run(tmp_path, CONFIG, at={5: broken})
    assert world.closed
    assert steps_in(tmp_path) == [3, 4]


def test_training_learns(world, tmp_path):
    """The toy has an exact solution, which the loop's updates approach."""
    long = TrainConfig(num_steps=400, log_every=100, eval_every=0, checkpoint_every=400)
    world.run(tmp_path, long)
    rows = world.writer.of("loss/total")
    assert rows[400] < 0.1 * rows[100]
