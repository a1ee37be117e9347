"""A whole run on the embedded world, tiny: train, stop, go on, evaluate, report; and what goes wrong on the way."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from hbi_jax import experiment
from hbi_jax.data.datasets import DataError
from hbi_jax.fields import ConfigError
from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.tasks import lock
from hbi_jax.tasks.gallery import GalleryEncoder
from hbi_jax.tasks.retrieval.task import RetrievalTask
from hbi_jax.train.checkpoint import CheckpointError, Checkpoints
from hbi_jax.train.preemption import PreemptedError
from hbi_jax.train.window import NonFiniteError
from tests.tiny_run import NUM_STEPS, SMALLEST, run, tiny_config

ROOT = pathlib.Path(__file__).parents[1]


def last_state(config, workdir: pathlib.Path):
    setup = experiment.prepare(config, str(workdir))
    params, step = experiment.restore_params(setup, str(workdir / "checkpoints" / str(NUM_STEPS)))
    assert step == NUM_STEPS
    return jax.tree.map(np.asarray, params)


def rows(workdir: pathlib.Path) -> list[dict]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "time"} for line in lines]


def test_a_run_leaves_a_report_with_every_method_and_picture(finished):
    report = json.loads((finished / "report.json").read_text())
    test, twins = report["galleries"]
    assert (test["texts"], test["videos"]) == (8, 8)
    validated = {row["step"]: row["val/t2v/R@1"] for row in rows(finished) if "val/t2v/R@1" in row}
    best = [f"HBI, step {step}" for step, value in validated.items() if value == max(validated.values())]
    own, *baselines = (row["method"] for row in test["rows"])
    assert own in best
    assert baselines == ["its towers, mean-pooled", "untrained"]
    assert test["chance"]["t2v"]["R@1"] == 12.5
    assert twins["group_chance"] == 25.0
    assert all(0 <= row["group_accuracy"] <= 100 for row in twins["rows"])
    pointing = {table["name"]: table for table in report["tables"]}
    assert list(pointing) == [
        f"pointing, {level}gallery {name!r}"
        for name in ("test", "twins")
        for level in ("", "level 'action', ", "level 'event', ")
    ]
    for name, table in pointing.items():
        rows_, own = dict(table["rows"]), {"interaction", "similarity", "prediction header"}
        sampled = set() if "level" in name else {"sampled, 100 coalitions", "sampled, 1000 coalitions"}
        assert {name.split(":")[0] for name in rows_} == own | sampled
        assert bool(table["headline"]) == ("level" not in name)
        assert {"interaction: action", "interaction: color", "interaction: all words"} <= set(rows_)
        for mass, low, high, uniform, auc, count in rows_.values():
            assert 0 <= low <= mass <= high <= 100
            assert 0 < uniform < 100
            assert 0 <= auc <= 1
            assert count >= 1
        assert len({tuple(row[3::2]) for name, row in rows_.items() if name.endswith(": action")}) == 1
    assert report["training"]["steps"] == NUM_STEPS
    assert 0 < report["training"]["wait_seconds"] < report["training"]["seconds"]
    assert report["unreadable"] == {}
    # The interaction at the finest level and at all levels, tokens as points, and the curves of training.
    assert len(report["pictures"]) == 4
    assert all((finished / picture["path"]).is_file() for picture in report["pictures"])
    assert "| chance |" in (finished / "report.md").read_text()


def test_metrics_are_logged_under_true_names_at_the_right_steps(finished):
    logged = rows(finished)
    assert [row["step"] for row in logged if "loss/total" in row] == [2, 3, 4, 6]
    assert [row["step"] for row in logged if "val/t2v/R@1" in row] == [3, 6]
    names = {
        "loss/entity/contrastive",
        "loss/entity/interaction",
        "loss/action/contrastive",
        "loss/action/interaction",
        "loss/action/distillation",
        "loss/event/contrastive",
        "loss/event/interaction",
        "loss/event/distillation",
        "learning_rate/new",
        "learning_rate/clip",
        "logit_scale",
        "gradient_norm",
    }
    assert names <= set(logged[0])
    weighted = [value for name, value in logged[0].items() if name.startswith("loss/") and name != "loss/total"]
    np.testing.assert_allclose(logged[0]["loss/total"], sum(weighted), rtol=1e-5)
    assert list((finished / "tensorboard").iterdir())


@pytest.mark.slow
def test_a_stopped_run_ends_bitwise_where_an_uninterrupted_one_ends(world, finished, tmp_path, monkeypatch):
    """Parameters and log rows, stopped between two rows."""
    stopped_at = 5
    config = tiny_config(world)
    compile_step = experiment._compile

    def stopping(step_fn, state, batch):
        compiled, seconds = compile_step(step_fn, state, batch)

        def step(state, batch):
            if int(state.step) + 1 == stopped_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return compiled(state, batch)

        return step, seconds

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "_compile", stopping)
        with pytest.raises(PreemptedError, match="stopped at step 5 of 6") as stop:
            experiment.train(experiment.prepare(config, str(tmp_path)))
    assert stop.value.exit_code == 128 + signal.SIGTERM
    stopped = rows(tmp_path)

    run(config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, last_state(config, tmp_path), last_state(config, finished))
    assert stopped == [row for row in rows(finished) if row["step"] <= stopped_at]
    assert rows(tmp_path) == rows(finished)


def test_a_finished_run_says_so_and_evaluates_again(world, finished, caplog):
    before = json.loads((finished / "report.json").read_text())
    with caplog.at_level("INFO", logger="hbi_jax"):
        run(tiny_config(world), finished)
    assert "has already completed its 6 steps" in caplog.text
    after = json.loads((finished / "report.json").read_text())
    assert after["galleries"] == before["galleries"]
    assert after["training"] == before["training"]


def test_a_run_that_was_killed_before_its_last_record_has_the_same_report(world, finished, tmp_path):
    """After its last checkpoint, that is; only how long it took is lost."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / experiment.TRAINING).unlink()
    run(tiny_config(world), folder)
    wanted, got = (json.loads((of / "report.json").read_text()) for of in (finished, folder))
    for name in ("galleries", "tables", "dataset", "unreadable", "protocol"):
        assert got[name] == wanted[name], name
    assert (wanted["training"] is None, got["training"]) == (False, None)
    facts = [json.loads((of / experiment.TRAINING).read_text()) for of in (finished, folder)]
    assert [{**each, "training": None} for each in facts] == [facts[1], facts[1]]
    # The same command again, and the whole run again: it is as long as it was, and was not lengthened.
    experiment.train(experiment.prepare(tiny_config(world), str(folder)))
    shutil.rmtree(folder / "checkpoints" / str(NUM_STEPS))
    experiment.train(experiment.prepare(tiny_config(world), str(folder)))
    assert json.loads((folder / experiment.TRAINING).read_text())["lengths"] == [NUM_STEPS]


@pytest.mark.slow
def test_eight_devices_give_the_results_of_two(world, finished, tmp_path):
    config = tiny_config(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "make_mesh", make_mesh)
        experiment.train(experiment.prepare(config, str(tmp_path)))
        mine = last_state(config, tmp_path)
    # Adam divides by a gradient's own size, so where a gradient is rounding noise its sign decides the update.
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(last_state(config, finished)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
    for a, b in zip(rows(tmp_path), rows(finished), strict=True):
        assert a.keys() == b.keys()
        if "loss/total" in a:
            np.testing.assert_allclose(a["loss/total"], b["loss/total"], rtol=2e-4)


def test_another_configuration_in_the_same_folder_is_refused(world, finished):
    config = tiny_config(world, optimizer__learning_rate=0.5)
    with pytest.raises(ConfigError, match=r"config.optimizer.learning_rate=0.5.*started with 0.001"):
        experiment.train(experiment.prepare(config, str(finished)))
    # What changes nothing that is learnt may change.
    experiment.train(experiment.prepare(tiny_config(world, train__log_every=1), str(finished)))


def test_a_checkpoint_of_another_architecture_is_named(world, finished, tmp_path):
    setup = experiment.prepare(tiny_config(world, model__weight_features=24), str(tmp_path / "run"))
    # Where the configuration of its training is known, the field is named, otherwise the parameter.
    with pytest.raises(ConfigError, match=r"config.model.weight_features=24, but the checkpoint of .* with 16"):
        experiment.evaluate(setup, str(finished))
    shutil.copytree(finished / "checkpoints", tmp_path / "copy" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"another architecture.*weight.*hidden.*is \(16,\), wanted \(24,\)"):
        experiment.evaluate(setup, str(tmp_path / "copy"))


@pytest.mark.parametrize("field", ["merge_heads", "clip.head_features", "padding"])
def test_fields_that_leave_no_trace_in_shapes_are_compared(world, finished, tmp_path, field):
    """The parameters would fit, and the results would mean nothing."""
    value = {"merge_heads": 1, "clip.head_features": 32, "padding": "published"}[field]
    setup = experiment.prepare(tiny_config(world, **{f"model__{field.replace('.', '__')}": value}), str(tmp_path))
    with pytest.raises(ConfigError, match=rf"config.model.{field}={value!r}, but the checkpoint of .* with"):
        experiment.evaluate(setup, str(finished))
    assert not (tmp_path / "report.json").exists()


def test_an_evaluation_with_other_frames_says_so(world, finished, tmp_path):
    config = tiny_config(
        world, data__num_frames=4, data__frames_per_second=1.0, model__remat="blocks", eval__baselines=False
    )
    experiment.evaluate(experiment.prepare(config, str(tmp_path)), str(finished))
    protocol = json.loads((tmp_path / "report.json").read_text())["protocol"]
    assert [sentence for sentence in protocol if sentence.startswith("Evaluated with")] == [
        "Evaluated with config.data.frames_per_second=1.0; the checkpoint was trained with 2.0.",
        "Evaluated with config.data.num_frames=4; the checkpoint was trained with 6.",
    ]


@pytest.mark.slow
def test_a_finished_run_can_be_lengthened_and_not_shortened(world, finished, tmp_path, caplog):
    shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"num_steps=4 makes 4 steps, but .* with 6; a run can be lengthened"):
        experiment.train(experiment.prepare(tiny_config(world, train__num_steps=4), str(tmp_path / "run")))
    with caplog.at_level("WARNING", "hbi_jax"):
        # How activations are kept may change, and how many videos may be missing: neither affects what is learnt.
        changed = {"model__remat": "none", "data__max_unreadable_rate": 0.3}
        run(tiny_config(world, train__num_steps=8, **changed), tmp_path / "run")
    assert "lengthened from 6 to 8 steps" in caplog.text
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["training"]["steps"], report["training"]["timed_steps"]) == (8, 2)
    assert "wall time of the last 2 steps after it, s" in (tmp_path / "run" / "report.md").read_text()
    assert "The run was lengthened: its learning-rate schedule ended at step 6, then at step 8." in report["protocol"]
    assert [row["step"] for row in rows(tmp_path / "run") if "loss/total" in row] == [2, 3, 4, 6, 8]
    # Above 0 again: the schedule of 8 steps.
    rates = {row["step"]: row["learning_rate/new"] for row in rows(tmp_path / "run") if "learning_rate/new" in row}
    assert rates[8] > 0


@pytest.mark.slow
def test_a_run_starts_from_the_checkpoint_of_another_with_its_optimizer(world, finished, tmp_path):
    """With the same configuration it ends where the other ended, bit by bit."""
    config = tiny_config(world)
    setup = experiment.prepare(config, str(tmp_path))
    experiment.train(setup, str(finished / "checkpoints" / "4"))
    jax.tree.map(np.testing.assert_array_equal, last_state(config, tmp_path), last_state(config, finished))
    assert rows(tmp_path) == [row for row in rows(finished) if row["step"] > 4]
    # Repeated, it goes on from its own checkpoints.
    experiment.train(setup, str(finished / "checkpoints" / "4"))


def test_checkpoints_that_no_run_can_start_from(world, finished, tmp_path):
    setup = experiment.prepare(tiny_config(world), str(tmp_path))
    with pytest.raises(ConfigError, match=r"has made 6 steps already: wanted fewer than the 6 of this run"):
        experiment.train(setup, str(finished / "checkpoints" / str(NUM_STEPS)))
    with pytest.raises(ConfigError, match=r"is in --workdir itself: wanted the checkpoint of another run"):
        experiment.train(setup, str(tmp_path))


def test_hosts_compare_all_that_they_read(world, finished, monkeypatch):
    """Validation too, which selects the checkpoint."""
    compared = []
    monkeypatch.setattr(experiment, "check_same_data", lambda splits: compared.extend(split.name for split in splits))
    experiment.train(experiment.prepare(tiny_config(world), str(finished)))
    assert compared == ["train", "val", "test", "twins"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("frozen", ("vision_tower", "text_tower"), r"config.optimizer.frozen=\['vision_tower', 'text_tower'\], but"),
        ("name", "muon", "config.optimizer.name='muon', but"),
        ("name", "bert_adam", "config.optimizer.name='bert_adam', but"),
    ],
)
def test_an_optimizer_that_keeps_another_state_is_named(world, finished, tmp_path, field, value, message):
    config = tiny_config(world, **{f"optimizer__{field}": value})
    setup = experiment.prepare(config, str(tmp_path))
    with pytest.raises(ConfigError, match=message + ".* is of a run with"):
        experiment.train(setup, str(finished / "checkpoints" / "4"))


def test_a_run_that_starts_anew_forgets_the_one_before(world, finished, tmp_path):
    """Its checkpoints are gone: neither its rows nor its length are those of the new run."""
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    config = tiny_config(world, train__num_steps=5)
    experiment.train(experiment.prepare(config, str(tmp_path / "run")), str(finished / "checkpoints" / "4"))
    assert [row["step"] for row in rows(tmp_path / "run") if "loss/total" in row] == [5]
    assert json.loads((tmp_path / "run" / "training.json").read_text())["lengths"] == [5]


def test_a_folder_that_another_process_works_in_is_refused(world, finished, tmp_path):
    """Neither training nor evaluation touches it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        owner = lock._this_process()._replace(pid=other.pid, start=lock._start_of(other.pid))
        (tmp_path / lock.LOCK).write_text(json.dumps(owner._asdict()))
        setup = experiment.prepare(tiny_config(world), str(tmp_path))
        for work in (experiment.train, lambda setup: experiment.evaluate(setup, str(finished))):
            with pytest.raises(ConfigError, match=rf"is in use by process {other.pid}"):
                work(setup)
        assert [path.name for path in tmp_path.iterdir()] == [lock.LOCK]
        other.communicate(b"\n")
    experiment.evaluate(setup, str(finished))
    assert (tmp_path / "report.json").exists()
    assert not (tmp_path / lock.LOCK).exists()


def test_a_missing_checkpoint_is_named(world, tmp_path):
    setup = experiment.prepare(tiny_config(world), str(tmp_path))
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*train first"):
        experiment.evaluate(setup)


def test_unreadable_videos_are_named_and_left_out(world, finished, tmp_path):
    broken = tmp_path / "world"
    shutil.copytree(world, broken)
    with (broken / "MSRVTT_JSFUSION_test.csv").open() as file:
        victim = file.readlines()[3].split(",")[2]
    path = broken / "videos" / f"{victim}.mp4"
    path.write_bytes(path.read_bytes()[:300])
    config = tiny_config(broken, data__max_unreadable_rate=0.2)
    setup = experiment.prepare(config, str(tmp_path / "run"))
    experiment.evaluate(setup, str(finished))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert list(report["unreadable"]) == [victim]
    assert (report["galleries"][0]["texts"], report["galleries"][0]["videos"]) == (7, 7)
    assert victim in (tmp_path / "run" / "report.md").read_text()

    setup = experiment.prepare(tiny_config(broken, data__max_unreadable_rate=0.1), str(tmp_path / "run"))
    with pytest.raises(DataError, match=rf"1 of 8 unreadable(.|\n)*{victim}"):
        experiment.evaluate(setup, str(finished))


@pytest.mark.slow
def test_the_mean_pooling_baseline_trains_and_reports(world, tmp_path):
    levels, steps = (("entity", 0, 0),), 2
    config = tiny_config(
        world, model__pooled=True, model__levels=levels, eval__level_rates=(1.0,), loss__interaction_weight=0.0,
        train__num_steps=steps, eval__num_pictures=1,
    )  # fmt: skip
    run(config, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["training"]["steps"] == steps
    # Its only similarity is that of the pooled vectors.
    own, pooled, _ = report["galleries"][0]["rows"]
    assert own["metrics"] == pooled["metrics"]
    assert [picture["path"] for picture in report["pictures"]] == ["pictures/training.png"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_that_are_computed_once_train_what_pixels_train(world, tmp_path, monkeypatch, dtype):
    losses = []
    for number, cached in enumerate((False, True, True)):
        changes = {"data.cache_features": cached, "optimizer.frozen": ("vision_tower",), "model.dtype": dtype}
        changes |= {"data.feature_folder": str(tmp_path / "features")}
        config = {name.replace(".", "__"): value for name, value in (SMALLEST | changes).items()}
        setup = experiment.prepare(tiny_config(world, **config), str(tmp_path / str(number)))
        if number == 2:
            # The second run has kept them.
            monkeypatch.setattr(GalleryEncoder, "frame_features", None)
        experiment.train(setup)
        losses.append([row["loss/total"] for row in rows(setup.workdir) if "loss/total" in row])
    assert len(losses[0]) > 1
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4 if dtype == "float32" else 2e-2)
    assert losses[1] == losses[2]


def test_features_of_a_tower_that_is_trained_are_not_kept(world, tmp_path):
    changes = {"optimizer.frozen": ("vision_tower/transformer",), "data.cache_features": True}
    trained = {name.replace(".", "__"): value for name, value in (SMALLEST | changes).items()}
    setup = experiment.prepare(tiny_config(world, **trained), str(tmp_path / "trained"))
    with pytest.raises(ConfigError, match="cache_features=True: wanted a frozen vision tower"):
        experiment.train(setup)


def test_a_loss_that_is_no_number_stops_with_step_and_videos(world, tmp_path, monkeypatch):
    monkeypatch.setattr(RetrievalTask, "load_init", lambda task, params: jax.tree.map(lambda x: x * np.nan, params))
    with pytest.raises(NonFiniteError, match=r"step 1; its batch held video\d+, video\d+"):
        experiment.train(experiment.prepare(tiny_config(world), str(tmp_path)))
    with Checkpoints(str(tmp_path / "checkpoints"), "t2v/R@1") as checkpoints:
        assert checkpoints.latest_step() is None


@pytest.mark.slow
def test_the_command_line_trains_in_a_process_of_its_own(world, tmp_path):
    changes = [f"--config.{field}={value}" for field, value in SMALLEST.items() if not field.startswith("data.world")]
    command = [
        sys.executable,
        "-m",
        "hbi_jax.main",
        f"--config={ROOT / 'configs' / 'quickstart.py'}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.annotations={world}",
        f"--config.data.videos={world / 'videos'}",
        "--config.data.render=",
        *changes,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "in group" in done.stdout
    assert "Traceback" not in done.stderr
    broken = [*command[:4], f"--workdir={tmp_path / 'other'}", *command[5:], f"--config.data.videos={tmp_path}/none"]
    failed = subprocess.run(broken, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "no such folder" in failed.stderr
    assert "Traceback" not in failed.stderr
