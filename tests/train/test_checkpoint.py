"""Checkpoints: what is kept, that it comes back bit by bit onto any devices, and what failing says and leaves."""

import functools
import os
import pathlib
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hbi_jax.parallel.mesh import make_mesh, param_shardings
from hbi_jax.train.checkpoint import CheckpointError, Checkpoints
from hbi_jax.train.digest import digests
from hbi_jax.train.state import TrainState, abstract_state

TX = optax.adam(1e-3)
METRIC = "t2v/R@1"


def params_of(width=8):
    """With one kernel that is cut along the model axis."""
    return {
        "params": {
            "mlp_fc": {"kernel": jnp.zeros((4, width)), "bias": jnp.zeros(width)},
            "scale": jnp.zeros(()),
        }
    }


def state_at(step, mesh=None, params=params_of) -> TrainState:
    """Random parameters and moments, others for each step."""
    mesh = make_mesh(1, 1, jax.devices()[:1]) if mesh is None else mesh
    rng = np.random.default_rng(step)
    state = jax.tree.map(
        lambda leaf: jax.device_put(rng.normal(scale=9, size=leaf.shape).astype(leaf.dtype), leaf.sharding),
        abstract_state(params, TX, mesh),
    )
    return state._replace(step=jax.device_put(np.int32(step), state.step.sharding))


def abstract_on(mesh, params=params_of) -> TrainState:
    return abstract_state(params, TX, mesh)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(1, 1, jax.devices()[:1])


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "checkpoints")


def steps_in(folder):
    return sorted(int(name) for name in os.listdir(folder) if name.isdigit())


def assert_equal(got, wanted):
    """Bit by bit."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_latest_and_best_are_kept(folder):
    with Checkpoints(folder, METRIC) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (None, None)
        for step, metrics in ((1, {METRIC: 0.5, "Rsum": 9.0}), (2, {METRIC: 0.9, "Rsum": 1.0}), (3, None)):
            checkpoints.save(state_at(step), metrics)
        checkpoints.save(state_at(4), {METRIC: 0.1, "Rsum": 5.0})
        checkpoints.save(state_at(5))
        checkpoints.wait()
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (5, 2)
        assert steps_in(folder) == [2, 4, 5]
    with Checkpoints(folder, METRIC, keep=1) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (5, 2)
        checkpoints.save(state_at(6), {METRIC: 0.95})
        checkpoints.wait()
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (6, 6)
    assert steps_in(folder) == [6]


@pytest.mark.parametrize(
    ("values", "best", "kept"), [((0.9, None, 0.5, 0.4), 1, [1, 4]), ((0.5, 0.9, None), 2, [2, 3]), ((None,), 1, [1])]
)
def test_a_metric_that_is_no_number_is_the_worst(folder, values, best, kept):
    with Checkpoints(folder, METRIC, keep=1) as checkpoints:
        for step, value in enumerate(values, start=1):
            checkpoints.save(state_at(step), {METRIC: float("nan") if value is None else value})
        checkpoints.wait()
        assert checkpoints.best_step() == best
    assert steps_in(folder) == kept
    with Checkpoints(folder, METRIC, keep=1) as checkpoints:
        assert checkpoints.best_step() == best
        assert int(checkpoints.restore_latest(abstract_on(make_mesh(1, 1, jax.devices()[:1]))).state.step) == kept[-1]


@pytest.mark.parametrize("metrics", [None, {}])
def test_without_validation_the_latest_is_the_best(folder, metrics):
    with Checkpoints(folder, METRIC) as checkpoints:
        checkpoints.save(state_at(1), metrics)
        checkpoints.save(state_at(2), metrics)
        checkpoints.wait()
        assert checkpoints.best_step() == checkpoints.latest_step() == 2
    assert steps_in(folder) == [1, 2]


def test_what_is_restored_is_what_was_saved(folder, mesh):
    wanted = state_at(3)
    copy = jax.tree.map(np.array, wanted)
    with Checkpoints(folder, METRIC) as checkpoints:
        checkpoints.save(wanted, {METRIC: 0.5})
    with Checkpoints(folder, METRIC) as checkpoints:
        got = checkpoints.restore(abstract_on(mesh), 3)
        assert_equal(got, copy)
        assert [leaf.dtype for leaf in jax.tree.leaves(got)] == [leaf.dtype for leaf in jax.tree.leaves(copy)]
        assert_equal(checkpoints.restore_params(abstract_on(mesh).params, 3), copy.params)


def test_what_is_saved_is_the_state_at_that_time(folder, mesh):
    """Saving goes on in the background while the next step already overwrites the donated state."""
    state = state_at(1)
    wanted = jax.tree.map(np.array, state)
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0, state), donate_argnums=0)
    with Checkpoints(folder, METRIC) as checkpoints:
        checkpoints.save(state)
        overwrite(state)
        checkpoints.wait()
        assert_equal(checkpoints.restore(abstract_on(mesh), 1), wanted)


@pytest.mark.parametrize(("saved_on", "restored_on"), [((1, 1), (8, 1)), ((1, 1), (4, 2)), ((4, 2), (1, 1))])
def test_onto_other_devices(folder, saved_on, restored_on):
    source, target = (make_mesh(*shape, jax.devices()[: shape[0] * shape[1]]) for shape in (saved_on, restored_on))
    wanted = state_at(1, source)
    with Checkpoints(folder, METRIC) as checkpoints:
        checkpoints.save(wanted)
        checkpoints.wait()
        got = checkpoints.restore(abstract_on(target), 1)
    assert_equal(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, wanted))
    where = param_shardings(got, target)
    assert jax.tree.all(jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding, got, where))
    assert got.params["params"]["mlp_fc"]["kernel"].sharding.mesh.size == target.size


def test_saving_a_step_again_keeps_the_first(folder, mesh):
    """As the end of training does where its last step was due for saving anyway: its metrics stay."""
    first = state_at(1)
    other = first._replace(params=jax.tree.map(lambda x: x + 1, first.params))
    with Checkpoints(folder, METRIC) as checkpoints:
        checkpoints.save(first, {METRIC: 0.5})
        checkpoints.save(other)
        checkpoints.wait()
        assert_equal(checkpoints.restore_params(abstract_on(mesh).params, 1), first.params)
        checkpoints.save(state_at(2))
        checkpoints.wait()
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (2, 1)


def wider():
    return params_of(width=6)


def renamed():
    tree = params_of()["params"]
    return {"params": {"mlp_fc": tree["mlp_fc"], "head": {"bias": jnp.zeros(3)}}}


@pytest.mark.parametrize(
    ("params", "difference"),
    [
        (
            wider,
            r"params/mlp_fc/bias is \(8,\), wanted \(6,\); params/mlp_fc/kernel is \(4, 8\), wanted \(4, 6\); use the",
        ),
        (renamed, r"params/head/bias is missing; params/scale is not part of the model; use the"),
    ],
)
def test_another_architecture_is_named(folder, mesh, params, difference):
    with Checkpoints(folder, METRIC) as checkpoints:
        checkpoints.save(state_at(1))
        checkpoints.wait()
        wanted = abstract_on(mesh, params)
        for restore in (lambda: checkpoints.restore(wanted, 1), lambda: checkpoints.restore_params(wanted.params, 1)):
            with pytest.raises(CheckpointError, match=rf"checkpoints/1 is of another architecture.*{difference}"):
                restore()


def test_a_long_difference_is_cut(folder, mesh):
    """Three of nine new layers and three old leaves are enough."""

    def deep():
        return {"params": {f"layer_{i}": jnp.zeros(2) for i in range(9)}}

    with Checkpoints(folder, METRIC) as checkpoints:
        checkpoints.save(state_at(1))
        checkpoints.wait()
        with pytest.raises(CheckpointError, match=r": params/layer_0 is missing; .* and 9 more; use"):
            checkpoints.restore_params(abstract_on(mesh, deep).params, 1)


def test_a_missing_metric_is_named_and_nothing_is_written(folder):
    with Checkpoints(folder, METRIC) as checkpoints:
        checkpoints.save(state_at(1), {METRIC: 0.5})
        with pytest.raises(CheckpointError, match=r"best_metric='t2v/R@1' is not among.*use one of Rsum, v2t/R@1"):
            checkpoints.save(state_at(2), {"Rsum": 1.0, "v2t/R@1": 0.5})
        checkpoints.wait()
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (1, 1)
    with Checkpoints(folder, "MdR") as checkpoints, pytest.raises(CheckpointError, match=r"'MdR' is not among"):
        checkpoints.best_step()


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot keep checkpoints in .*file/checkpoints.*choose a --workdir"):
        Checkpoints(str(tmp_path / "file" / "checkpoints"), METRIC)


def test_a_full_disk(folder, mesh):
    """A real write error in the background: files may not exceed 20 kB for a while."""

    def big():
        return {"params": {"mlp_fc": {"kernel": jnp.zeros((100, 200))}}}

    def small():
        return {"params": {"mlp_fc": {"kernel": jnp.zeros((2, 3))}}}

    with Checkpoints(folder, METRIC) as checkpoints:
        checkpoints.save(state_at(1, params=small), {METRIC: 0.5})
    state = state_at(2, params=big)
    jax.block_until_ready(state)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(folder, METRIC) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            checkpoints.save(state)
            with pytest.raises(CheckpointError, match=r"could not save a checkpoint in .*free some space there"):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert steps_in(folder) == [1]
    with Checkpoints(folder, METRIC) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (1, 1)
        assert_equal(checkpoints.restore(abstract_on(mesh, small), 1), state_at(1, params=small))
        checkpoints.save(state_at(2, params=small), {METRIC: 0.4})
        checkpoints.wait()
        assert_equal(checkpoints.restore(abstract_on(mesh, small), 2), state_at(2, params=small))
        assert checkpoints.best_step() == 1


@pytest.mark.parametrize("call", ["save", "wait_until_finished", "close"])
def test_whatever_the_storage_raises_is_explained(folder, mesh, monkeypatch, call):
    """At once, while waiting, or when the last save ends with the run; what was there stays."""

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with Checkpoints(folder, METRIC) as checkpoints:
        checkpoints.save(state_at(1), {METRIC: 0.5})
    message = rf"could not save a checkpoint in {folder}: .*No space left on device; free some space there, then run"

    def failing_run():
        with Checkpoints(folder, METRIC) as checkpoints:
            monkeypatch.setattr(checkpoints._manager, call, full)
            checkpoints.save(state_at(2))
            checkpoints.wait()

    with pytest.raises(CheckpointError, match=message):
        failing_run()
    with Checkpoints(folder, METRIC) as checkpoints:
        assert checkpoints.best_step() == 1
        assert_equal(checkpoints.restore(abstract_on(mesh), 1), state_at(1))


def test_a_damaged_checkpoint_is_named(folder, mesh):
    with Checkpoints(folder, METRIC) as checkpoints:
        checkpoints.save(state_at(1))
        checkpoints.wait()
        for data in pathlib.Path(folder, "1").rglob("d"):
            shutil.rmtree(data)
        with pytest.raises(CheckpointError, match=rf"could not read a checkpoint in {folder}: .*move its folder away"):
            checkpoints.restore(abstract_on(mesh), 1)
        with pytest.raises(CheckpointError, match=r"could not read a checkpoint.*/7"):
            checkpoints.restore_params(abstract_on(mesh).params, 7)


def save_two(folder):
    with Checkpoints(folder, METRIC) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_at(step), {METRIC: 0.1 * step}, {"count": step})


def test_the_latest_comes_back_with_its_progress(folder, mesh):
    save_two(folder)
    with Checkpoints(folder, METRIC) as checkpoints:
        state, progress = checkpoints.restore_latest(abstract_on(mesh))
        assert_equal(state, state_at(2))
        assert progress == {"count": 2}
    with Checkpoints(folder + "-empty", METRIC) as checkpoints:
        assert checkpoints.restore_latest(abstract_on(mesh)) is None


def files_of(step):
    """The files of a checkpoint that hold something."""
    return sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_bit_that_flips_in_any_file_is_seen_or_changes_nothing(folder, mesh, tmp_path):
    """The state that training goes on from is the one that was saved, of the damaged step or of the one before."""
    save_two(folder)
    files = files_of(pathlib.Path(folder, "2"))
    assert len(files) > 8
    before = 0
    for number, file in enumerate(files):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(folder, copy)
        flip(copy / file.relative_to(folder))
        with Checkpoints(str(copy), METRIC) as checkpoints:
            state, progress = checkpoints.restore_latest(abstract_on(mesh))
            step = int(state.step)
            assert_equal(state, state_at(step))
            assert progress == {"count": step}
            before += step == 1
            assert checkpoints.latest_step() == step
    assert before >= 8


def test_parameters_of_any_model_are_compared_as_well(folder):
    """Where they are large enough to lie in a file without a checksum of its own."""
    state = state_at(1, params=functools.partial(params_of, 2**16))
    with Checkpoints(folder, METRIC) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        jax.tree.map(np.testing.assert_array_equal, checkpoints.restore_saved(1), state.params)
    flip(max(files_of(pathlib.Path(folder, "1", "params")), key=lambda file: file.stat().st_size))
    message = "checkpoint .*/1 is damaged: its params differ from what was saved"
    with Checkpoints(folder, METRIC) as checkpoints, pytest.raises(CheckpointError, match=message):
        checkpoints.restore_saved(1)


def test_a_damaged_latest_is_named_and_kept_beside(folder, mesh, caplog):
    save_two(folder)
    for data in pathlib.Path(folder, "2").rglob("d"):
        shutil.rmtree(data)
    with Checkpoints(folder, METRIC) as checkpoints:
        state, _ = checkpoints.restore_latest(abstract_on(mesh))
        assert_equal(state, state_at(1))
        assert "could not read a checkpoint" in caplog.text
        assert "checkpoint 2 was renamed to" in caplog.text
        assert (pathlib.Path(folder) / "damaged-2").is_dir()
        # The step can be saved again.
        checkpoints.save(state_at(2), {METRIC: 0.2})
        checkpoints.wait()
        assert_equal(checkpoints.restore_latest(abstract_on(mesh)).state, state_at(2))


def test_a_checkpoint_that_is_not_finite_is_not_resumed_from(folder, mesh, caplog):
    """As a version saved it that looked at the losses only."""
    save_two(folder)
    bad = state_at(3)
    bad = bad._replace(params=jax.tree.map(lambda x: x.at[...].set(jnp.nan) if x.ndim == 1 else x, bad.params))
    with Checkpoints(folder, METRIC) as checkpoints:
        checkpoints.save(bad, {METRIC: 0.3})
    with Checkpoints(folder, METRIC) as checkpoints:
        assert int(checkpoints.restore_latest(abstract_on(mesh)).state.step) == 2
    assert "checkpoints/3 holds values of params/params/mlp_fc/bias that are not finite" in caplog.text


def test_where_all_are_damaged_the_newest_is_named(folder, mesh):
    save_two(folder)
    for step in ("1", "2"):
        shutil.rmtree(pathlib.Path(folder, step, "opt_state"))
    with Checkpoints(folder, METRIC) as checkpoints:
        with pytest.raises(CheckpointError, match=r"could not read a checkpoint.*/2/opt_state"):
            checkpoints.restore_latest(abstract_on(mesh))
        # Nothing is renamed.
        assert steps_in(folder) == [1, 2]


def test_a_checkpoint_of_an_earlier_version_is_read(folder, mesh):
    """It has no third item."""
    save_two(folder)
    shutil.rmtree(pathlib.Path(folder, "2", "record"))
    with Checkpoints(folder, METRIC) as checkpoints:
        state, progress = checkpoints.restore_latest(abstract_on(mesh))
        assert_equal(state, state_at(2))
        assert progress == {}


def test_digests_see_every_bit_and_no_device(mesh):
    wide = make_mesh(4, 2)
    tree = {"mlp_fc": {"kernel": state_at(1, wide).params["params"]["mlp_fc"]["kernel"]}, "n": jnp.arange(5)}
    found = digests(tree)
    assert found == digests(jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), tree))
    kernel = np.asarray(tree["mlp_fc"]["kernel"])
    for bit in (0, 13, 31):
        changed = kernel.copy().view(np.uint32)
        changed[2, 3] ^= np.uint32(1 << bit)
        assert digests({"x": jnp.asarray(changed.view(np.float32))})["x"] != found["mlp_fc/kernel"]
    assert digests({"x": jnp.asarray(kernel[::-1])})["x"] != found["mlp_fc/kernel"]
    for dtype in (jnp.bfloat16, jnp.int8, bool):
        one, other = (digests({"x": jnp.array(values, dtype)})["x"] for values in ([0, 1, 1], [1, 0, 1]))
        assert one != other
