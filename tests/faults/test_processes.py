"""Jobs of two and four real processes: the numbers of one process, wherever the mesh's axes lie; faults and signals."""

import json
import pathlib
import shutil
import signal
import time

import numpy as np
import pytest

from hbi_jax.data.dataset import Dataset
from hbi_jax.tasks.lock import LOCK
from tests.faults.jobs import flags, job, only_when_asked, rows
from tests.faults.session import config_of

pytestmark = pytest.mark.slow

BROKEN_RATE = {"data.max_unreadable_rate": 0.2}
TASKS = {
    "quickstart": {},
    "quickstart_qa": {"eval.best_metric": "accuracy", "answers.top_answers": 8},
    "quickstart_caption": {
        "eval.best_metric": "first_event/accuracy",
        # The tasks share a world.
        "data.world.near_twin_share": 0.9,
        "captions.method": "greedy",
        "captions.max_words": 8,
        "captions.vocabulary": "training",
    },
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> pathlib.Path:
    """A rendered world with a test video that cannot be read."""
    folder = tmp_path_factory.mktemp("jobs")
    config = config_of("quickstart", str(folder / "world"), {})
    Dataset(config.data, config.model.clip.image_size, str(folder)).render()
    with (folder / "world" / "MSRVTT_JSFUSION_test.csv").open() as file:
        victim = file.readlines()[3].split(",")[2]
    path = folder / "world" / "videos" / f"{victim}.mp4"
    path.write_bytes(path.read_bytes()[:300])
    (folder / "world" / "victim").write_text(victim)
    return folder / "world"


def plan(path: pathlib.Path, world: pathlib.Path, runs: dict[str, dict]) -> pathlib.Path:
    """Writes a plan of runs in folders beside it, by name: the name of a configuration, and fields."""
    made = [
        {
            "workdir": str(path.parent / name),
            "config": run["config"],
            "world": str(world),
            "fields": TASKS[run["config"]] | BROKEN_RATE | run.get("fields", {}),
        }
        for name, run in runs.items()
    ]
    path.write_text(json.dumps(made))
    return path


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory) -> pathlib.Path:
    """The runs of one process with one device."""
    folder = tmp_path_factory.mktemp("alone")
    runs = {config: {"config": config} for config in TASKS}
    arguments = [str(plan(folder / "plan.json", world, runs))]
    with job(folder / "logs", 1, arguments, program=("-m", "tests.faults.session")) as started:
        assert started.wait(600) == [0], started.output()
    return folder


def assert_alike(found: pathlib.Path, wanted: pathlib.Path) -> None:
    """Losses to 1e-6, relative; reports but for devices, times and rounding."""
    for ours, theirs in zip(rows(found), rows(wanted), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            tolerance = 1e-6 if name.startswith("loss/") and ours["step"] <= 2 else 1e-4
            np.testing.assert_allclose(ours[name], theirs[name], rtol=tolerance, atol=1e-6, err_msg=name)
    ours, theirs = (json.loads((folder / "report.json").read_text()) for folder in (found, wanted))
    for part in ("dataset", "unreadable", "protocol", "galleries"):
        assert ours[part] == theirs[part]
    for one, other in zip(ours["tables"], theirs["tables"], strict=True):
        assert [name for name, _ in one["rows"]] == [name for name, _ in other["rows"]]
        for (_, values), (_, others) in zip(one["rows"], other["rows"], strict=True):
            np.testing.assert_allclose(
                np.array(values, float), np.array(others, float), rtol=1e-3, atol=1e-3, equal_nan=True
            )
    for captions in found.glob("captions-*.json"):
        assert json.loads(captions.read_text()) == json.loads((wanted / captions.name).read_text())


@only_when_asked
def test_two_processes_give_the_numbers_of_one(world, alone, tmp_path):
    """Data 4 x model 1, 2 x 2, and 1 x 4, where both processes hold the same rows."""
    runs = {f"{data}x{model}": {"config": "quickstart", "fields": {"mesh.data": data, "mesh.model": model}}
            for data, model in ((4, 1), (2, 2), (1, 4))}  # fmt: skip
    for config in ("quickstart_qa", "quickstart_caption"):
        runs[f"{config}-1x4"] = {"config": config, "fields": {"mesh.data": 1, "mesh.model": 4}}
    arguments = [str(plan(tmp_path / "plan.json", world, runs))]
    with job(tmp_path / "logs", 2, arguments, devices=2, program=("-m", "tests.faults.session")) as started:
        assert started.wait(1500) == [0, 0], started.output(0) + started.output(1)
    for name, run in runs.items():
        assert_alike(tmp_path / name, alone / run["config"])
        report = json.loads((tmp_path / name / "report.json").read_text())
        assert list(report["unreadable"]) == [(world / "victim").read_text()]
    # All 7 readable videos and their texts are in the gallery.
    gallery = json.loads((tmp_path / "1x4" / "report.json").read_text())["galleries"][0]
    assert (gallery["texts"], gallery["videos"]) == (7, 7)


@only_when_asked
def test_four_processes_give_the_numbers_of_one(world, alone, tmp_path):
    runs = {"2x2": {"config": "quickstart", "fields": {"mesh.data": 2, "mesh.model": 2}}}
    arguments = [str(plan(tmp_path / "plan.json", world, runs))]
    with job(tmp_path / "logs", 4, arguments, program=("-m", "tests.faults.session")) as started:
        assert started.wait(1500) == [0] * 4, "".join(map(started.output, range(4)))
    assert_alike(tmp_path / "2x2", alone / "quickstart")


def test_a_limit_is_that_of_all_processes_together(world, tmp_path):
    """One of 8 videos is unreadable, on one process: the limit of 10 % is exceeded, and both say so."""
    arguments = flags(world, tmp_path / "run", train__num_steps=1, data__max_unreadable_rate=0.1)
    with job(tmp_path / "logs", 2, arguments) as started:
        assert started.wait() == [1, 1]
        for process in range(2):
            assert "1 of 8 unreadable, wanted at most 10.00%" in started.output(process)
            assert (world / "victim").read_text() in started.output(process)


def test_a_stop_a_kill_and_a_second_job(world, tmp_path):
    """A run of two processes is stopped, resumed, killed and resumed; it ends where an uninterrupted one ends."""
    fields = {"data__max_unreadable_rate": 0.2, "train__num_steps": 24, "train__checkpoint_every": 6}
    fields |= {"train__eval_every": 12}
    whole, parts = (flags(world, tmp_path / name, **fields) for name in ("whole", "parts"))
    with job(tmp_path / "logs" / "whole", 2, whole) as started:
        assert started.wait() == [0, 0], started.output(0)

    with job(tmp_path / "logs" / "stopped", 2, parts) as started:
        started.wait_for("step  4/24")
        # The same folder once more, by a job of one process: it is refused, and the first loses nothing.
        with job(tmp_path / "logs" / "second", 1, parts) as second:
            assert second.wait() == [1]
            assert "is in use by process" in second.output()
        started.processes[1].send_signal(signal.SIGTERM)
        assert started.wait() == [143, 143], started.output(0)
        stopped = [line for line in started.output(0).splitlines() if line.startswith("stopped at step")]
        assert stopped
        assert stopped[0] in started.output(1)

    with job(tmp_path / "logs" / "killed", 2, parts) as started:
        started.wait_for("step 18/24")
        begun = time.monotonic()
        started.processes[1].kill()
        codes = started.wait(60)
        assert time.monotonic() - begun < 20
        assert codes == [1, -9]
        assert "process 1 of the job failed" in started.output(0).splitlines()[-2]
        assert "it was killed" in started.output(0).splitlines()[-2]
    # Its owner hears of the kill from a failed collective, and ends as after any error, or from its watch, at once.
    left_its_lock = (tmp_path / "parts" / LOCK).exists()

    with job(tmp_path / "logs" / "resumed", 2, parts) as started:
        assert started.wait() == [0, 0], started.output(0)
        assert ("was owned by process" in started.output(0)) == left_its_lock
        assert "resuming from step" in started.output(0)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    ours, theirs = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("parts", "whole"))
    assert ours["galleries"] == theirs["galleries"]
    assert ours["unreadable"] == theirs["unreadable"]


def test_hosts_with_different_data_are_refused(world, tmp_path):
    """Here: two processes with different annotations. The reason names both hosts, and the split."""
    other = tmp_path / "other"
    shutil.copytree(world, other)
    file = other / "MSRVTT_JSFUSION_test.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n")
    # The second process is started with its own folder of annotations.
    arguments = flags(world, tmp_path / "run", train__num_steps=1, data__max_unreadable_rate=0.2, data__render="")
    with job(tmp_path / "logs", 2, arguments, own={1: flags(other, tmp_path / "run")[-2:]}) as started:
        assert started.wait() == [1, 1]
        assert "split 'test' on process 1" in started.output(0)
        assert "7 records" in started.output(0)
