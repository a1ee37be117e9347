"""Tables of ablations: their rows fit every configuration, and runs are shared, resumed, repeated and told apart.

Most tests put a program in the place of the training that answers at once and writes down how it was called.
"""

import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import time

import pytest
from absl import flags
from ml_collections import config_flags

from hbi_jax.ablations.results import Ablation
from hbi_jax.ablations.runner import Base, Runner, make_tables
from hbi_jax.ablations.tables import TABLES, V1, Row, Table, rows_of
from hbi_jax.fields import ConfigError
from tests.tiny_run import TINY

ROOT = pathlib.Path(__file__).parents[1]
PYTHON = sys.executable

# ml_collections reads configuration files in a way that Python is giving up.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def config_of(name):
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()


# Reconstruction needs masked padding, which the first paper's presets do not have; estimators have no tables, and the
# tables make HCMI out of HBI.
NAMES = sorted(
    path.stem
    for path in (ROOT / "configs").glob("*.py")
    if config_of(path.stem).task != "estimator"
    and config_of(path.stem).model.padding == "masked"
    and config_of(path.stem).model.method == "hbi"
)


def base_of(name, **given):
    """A configuration and what a command line changes of it."""
    path, values = str(ROOT / "configs" / f"{name}.py"), flags.FlagValues()
    arguments = ["program", f"--config={path}", *(f"--config.{field}={value}" for field, value in given.items())]
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True, sys_argv=arguments)
    values(arguments)
    return Base(values.config, path, config_flags.get_override_values(values["config"]))


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_a_valid_configuration_of_its_own(name, tmp_path):
    base = base_of(name)
    runner = Runner(base, tmp_path, 0)
    for table in TABLES:
        if TABLES[table].retrieval and base.config.task != "retrieval":
            with pytest.raises(ConfigError, match=f"wanted 'retrieval' for --table={table}"):
                rows_of(table, base.config)
            continue
        rows = rows_of(table, base.config)
        assert len({row.name for row in rows}) == len(rows)
        # Weights of 1 are those of the whole model, whichever is varied.
        distinct = len(rows) - (table == "weights")
        assert len({runner.job(row, seed).digest for row in rows for seed in (0, 1)}) == 2 * distinct


def test_the_command_line_makes_of_a_row_the_configuration_that_it_is_named_after(tmp_path):
    base = base_of("quickstart")
    rows = {str(row.overrides): row for table in TABLES for row in rows_of(table, base.config)}
    for row in rows.values():
        parsed = base_of("quickstart", **row.overrides)
        digests = (Runner(parsed, tmp_path, 0).job(Row("", {}), 0).digest, Runner(base, tmp_path, 0).job(row, 0).digest)
        assert digests[0] == digests[1]


def test_rows_are_those_of_the_paper():
    config = config_of("msrvtt")
    assert {name: len(rows_of(name, config)) for name in TABLES} == {
        "4": 7, "5": 6, "6": 5, "7": 10, "weights": 10, "versions": 3, "teachers": 4, "pointing": 13,
        "hcmi": 16, "methods": 5,
    }  # fmt: skip
    levels = [row.overrides["model.levels"] for row in rows_of("6", config)]
    counts = [(action[2], event[2], action[1], event[1]) for _, action, event in levels]
    assert counts == [(9, 3, 18, 4), (9, 3, 16, 4), (6, 2, 16, 4), (6, 2, 12, 3), (3, 2, 8, 3)]
    paths = {row.name: row.overrides["loss.distillation_paths"] for row in rows_of("7", config)}
    assert paths["E→A, A→O"] == (("entity", "action"), ("action", "event"))
    for name in ("4", "5", "6", "7"):
        # The whole model is the best of each.
        assert max(row.paper for row in rows_of(name, config) if row.paper) == 49.4


def test_cluster_counts_are_scaled_to_fewer_tokens():
    """To the quickstart's 4, 2 frames and 8, 3 words where the paper has 6, 2 and 16, 4; never more than there are."""
    rows = rows_of("6", config_of("quickstart"))
    assert [row.name for row in rows] == [
        "6, 3 frames; 9, 3 words",
        "6, 3 frames; 8, 3 words",
        "4, 2 frames; 8, 3 words",
        "4, 2 frames; 6, 2 words",
        "2, 2 frames; 4, 2 words",
    ]
    few = config_of("quickstart")
    few.data.num_frames = 5
    assert rows_of("6", few)[0].overrides["model.levels"] == (("entity", 0, 0), ("action", 9, 5), ("event", 3, 3))


def test_the_whole_model_is_one_run_of_all_tables(tmp_path):
    base = base_of("quickstart")
    runner = Runner(base, tmp_path, 0)
    names = [name for name in TABLES if name != "hcmi"]
    digests = [{runner.job(row, 0).digest for row in rows_of(name, base.config)} for name in names]
    assert len(set.intersection(*digests)) == 1
    assert digests[names.index("versions")] < digests[names.index("methods")]
    # Contrastive only, V1 and V2 are rows of Table IV.
    assert digests[names.index("versions")] < digests[names.index("4")]


@pytest.mark.parametrize("name", ["quickstart", "msrvtt"])
def test_the_whole_hcmi_is_that_of_its_configuration(name, tmp_path):
    """Model, data and losses of the row, and the same run in both tables."""
    base, wanted = base_of(name), config_of({"quickstart": "quickstart_hcmi"}.get(name, f"hcmi_{name}"))
    runner = Runner(base, tmp_path, 0)
    rows = {table: {row.name: row for row in rows_of(table, base.config)} for table in ("hcmi", "methods")}
    row = rows["methods"]["HCMI"]
    whole = rows["hcmi"]["three levels, denoising, margin"]
    assert runner.job(row, 0).digest == runner.job(whole, 0).digest
    for field, value in row.overrides.items():
        section, field = field.split(".")
        assert wanted[section][field] == value, field


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "estimator"}, "config.task='estimator': wanted a task that aligns"),
        ({"model.method": "hcmi"}, "config.model.method='hcmi': wanted 'hbi', of which the tables make their models"),
        ({"model.levels": (("entity", 0, 0),)}, "config.model.levels=.*: wanted three levels"),
        ({"loss.interaction_weight": 0.0}, "config.loss.interaction_weight=0: wanted more"),
    ],
)
def test_a_configuration_without_what_is_taken_away_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        rows_of("4", base_of("quickstart", **changes).config)


# Appends its call to calls.jsonl beside the work folder, then ends as the test says, or leaves a report whose figures
# are its seed's and its weights'.
PROGRAM = """#!{python}
import json, os, pathlib, signal, sys, time
fields = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[3:])
folder = pathlib.Path(fields["workdir"])
fields["programs"] = os.environ.get("JAX_COMPILATION_CACHE_DIR")
with open(folder.parent / "calls.jsonl", "a") as file:
    file.write(json.dumps(fields) + "\\n")
seed, alpha = int(fields.get("config.seed", 0)), float(fields.get("config.loss.interaction_weight", 1))
{then}
recalls = {{"R@1": 40 + 5 * alpha + seed, "R@5": 50.0, "R@10": 60.0, "MnR": 4.0}}
metrics = {{"t2v": recalls, "v2t": recalls, "Rsum": 300.0}}
gallery = {{"name": "gallery 'test'", "texts": 8, "videos": 8, "chance": metrics, "group_chance": None,
           "rows": [{{"metrics": metrics, "group_accuracy": None}}]}}
report = {{"galleries": [gallery], "tables": [], "training": {{"steps": 6}}, "config": {{"train": {{"batch_size": 8}}}},
          "environment": {{"device_count": 1, "device_kind": "cpu", "jax": "1"}}}}
(folder / "report.json").write_text(json.dumps(report))
"""
TWO = Table(
    "Two rows", "A note.", lambda config: [Row("with", V1, 48.6), Row("without", V1 | {"loss.interaction_weight": 0.0})]
)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program in the place of python, which does something before it reports; gives what reads its calls."""

    def put(then: str = ""):
        path = tmp_path / "program"
        path.write_text(PROGRAM.format(python=PYTHON, then=then))
        path.chmod(0o755)
        monkeypatch.setattr("hbi_jax.ablations.runs.sys.executable", str(path))

    def calls():
        file = tmp_path / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    monkeypatch.setitem(TABLES, "two", TWO)
    put()
    return put, calls


def make(names, tmp_path, seeds=(0, 1)):
    return make_tables(names, base_of("quickstart"), tmp_path, seeds, tmp_path / "out", "the command")


def table_of(tmp_path, name="two"):
    return Ablation.from_json((tmp_path / "out" / f"ablation_{name}.json").read_text())


def test_a_table_has_every_model_with_every_seed(program, tmp_path):
    _, calls = program
    assert make(["two"], tmp_path)
    # Seed by seed, in one world, without what tables do not need.
    asked = [(call["config.seed"], call.get("config.loss.interaction_weight")) for call in calls()]
    assert asked == [("0", None), ("0", "0.0"), ("1", None), ("1", "0.0")]
    for call in calls():
        assert call["config.data.videos"] == str(tmp_path / "data" / "videos")
        assert (call["config.eval.baselines"], call["config.eval.num_pictures"]) == ("False", "0")
    table = table_of(tmp_path)
    assert [line.runs["1"]["t2v R@1"] for line in table.lines] == [46.0, 41.0]
    assert table.lines[0].summary["t2v R@1"] == {"mean": 45.5, "min": 45.0, "max": 46.0, "standard_error": 0.5}
    text = (tmp_path / "out" / "ablation_two.md").read_text()
    assert "| with | 2 | 45.5 (45.0 to 46.0) | 50.0 |" in text
    assert "A note." in text
    assert "Gallery 'test', 8 texts and 8 videos; 6 steps of 8 rows; 2 seeds" in text
    assert "Unfinished" not in text
    assert (tmp_path / "out" / "ablation_two.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("variable", "value", "wanted"),
    [("NONE", "", "programs"), ("JAX_COMPILATION_CACHE_DIR", "mine", "mine"), ("JAX_NUM_CPU_DEVICES", "2", None)],
)
def test_runs_share_what_they_compile(program, tmp_path, monkeypatch, variable, value, wanted):
    _, calls = program
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    make(["two"], tmp_path, (0,))
    assert {call["programs"] for call in calls()} == {str(tmp_path / wanted) if wanted == "programs" else wanted}


def test_finished_runs_are_taken_as_they_are(program, tmp_path):
    _, calls = program
    make(["two"], tmp_path, (0,))
    assert make(["two"], tmp_path, (0, 1))
    assert [call["config.seed"] for call in calls()] == ["0", "0", "1", "1"]
    assert make(["two", "versions"], tmp_path, (0,))
    # V1 is there already.
    assert len(calls()) == 6


def test_a_run_that_does_not_tell_how_it_was_trained_is_in_the_table(program, tmp_path):
    """As one that was killed between its last checkpoint and its record."""
    put, _ = program
    put("untold = True")
    path = tmp_path / "program"
    training = '"training": {"steps": 6}'
    path.write_text(path.read_text().replace(training, f"{training} if seed else None"))
    assert make(["two"], tmp_path, (0,))
    assert table_of(tmp_path).budget == "an unrecorded number of steps of 8 rows"
    assert make(["two"], tmp_path)
    assert table_of(tmp_path).budget == "6 steps of 8 rows"


def test_what_does_not_change_results_repeats_no_run(tmp_path):
    row, wanted = Row("", {}), Runner(base_of("quickstart"), tmp_path, 0).job(Row("", {}), 0).digest
    free = {"train.stall_minutes": 0.5, "train.keep": 7, "data.video_timeout": 9.0, "mesh.data": 2}
    assert Runner(base_of("quickstart", **free), tmp_path, 0).job(row, 0).digest == wanted
    for changed in ({"init": ""}, {"eval.level_rates": (1.0, 0.0, 0.0)}, {"train.num_steps": 7}):
        assert Runner(base_of("quickstart", **changed), tmp_path, 0).job(row, 0).digest != wanted


def test_a_run_that_fails_is_reported_and_tried_again(program, tmp_path):
    put, calls = program
    put("if alpha == 0: sys.exit('no such thing')")
    assert not make(["two"], tmp_path)
    table = table_of(tmp_path)
    assert [len(line.runs) for line in table.lines] == [2, 0]
    text = (tmp_path / "out" / "ablation_two.md").read_text()
    assert "| without | 0 | - |" in text
    assert "**Unfinished: 2 of 4 runs.** without, seed 0: failed with exit code 1, see " in text
    log = text.partition("see ")[2].partition(".txt")[0] + ".txt"
    assert "no such thing" in pathlib.Path(log).read_text()
    put()
    assert make(["two"], tmp_path)
    assert len(calls()) == 6
    assert [len(line.runs) for line in table_of(tmp_path).lines] == [2, 2]


def test_tables_are_written_after_every_run(program, tmp_path):
    """Stopped at the third run, the table has what was there before."""
    put, _ = program
    put("if seed == 1: os.kill(os.getppid(), signal.SIGALRM); time.sleep(60)")

    def stop(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            make(["two"], tmp_path)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [list(line.runs) for line in table_of(tmp_path).lines] == [["0"], ["0"]]
    assert "**Unfinished: 2 of 4 runs.**" in (tmp_path / "out" / "ablation_two.md").read_text()


def test_the_estimator_learns_from_the_exact_teachers_model(program, tmp_path):
    _, calls = program
    assert make(["teachers"], tmp_path)
    configs = [pathlib.Path(call["config"]).name for call in calls()]
    assert configs == ["quickstart.py", "estimator.py:quickstart", *["quickstart.py"] * 7]
    exact, training, taught, *sampled, _, again, _, _ = calls()
    assert training["config.init"] == exact["workdir"]
    assert taught["config.loss.estimator"] == again["config.loss.estimator"] == training["workdir"]
    assert taught["config.loss.teacher"] == "estimator"
    assert [call["config.loss.num_samples"] for call in sampled] == ["1000", "100"]
    # Started again, there is nothing to do.
    assert make(["teachers"], tmp_path)
    assert len(calls()) == 9


def test_without_the_exact_model_there_is_no_estimator(program, tmp_path):
    put, calls = program
    put("if fields.get('config.loss.teacher') == 'exact': sys.exit(3)")
    assert not make(["teachers"], tmp_path, (0,))
    assert [call["config.loss.teacher"] for call in calls()] == ["exact", "sampled", "sampled"]
    estimator = table_of(tmp_path, "teachers").lines[1]
    assert estimator.failed["0"].startswith("the run that its estimator learns from failed with exit code 3")


def test_what_cannot_work_is_told_before_the_first_run(program, tmp_path):
    _, calls = program
    base = base_of("quickstart")
    base.config.eval.best_metric = "t2v/R@2"
    with pytest.raises(ConfigError, match=r"config.eval.best_metric"):
        make_tables(["4"], base, tmp_path, (0,), tmp_path, "")
    assert calls() == []


def test_an_estimator_without_a_configuration_is_told_before_the_first_run(program, tmp_path):
    """A configuration of one's own lies elsewhere; with a copy of the estimator's beside it, all is well."""
    _, calls = program
    own, base = tmp_path / "own.py", base_of("quickstart")
    own.write_text((ROOT / "configs/quickstart.py").read_text())
    base = base._replace(file=str(own))
    with pytest.raises(ConfigError, match=r"own\.py: wanted estimator\.py beside it, .* copy it there from configs/"):
        make_tables(["teachers"], base, tmp_path, (0,), tmp_path, "")
    assert calls() == []
    assert make_tables(["versions"], base, tmp_path, (0,), tmp_path, "")
    (tmp_path / "estimator.py").write_text((ROOT / "configs/estimator.py").read_text())
    assert make_tables(["teachers"], base, tmp_path, (0,), tmp_path, "")
    assert f"{tmp_path / 'estimator.py'}:own" in [call["config"] for call in calls()]


def test_a_seed_given_twice_is_one_run(program, tmp_path):
    _, calls = program
    assert make(["two"], tmp_path, (1, 0, 1))
    assert [call["config.seed"] for call in calls()] == ["1", "1", "0", "0"]
    assert list(table_of(tmp_path).seeds) == [1, 0]
    assert "Unfinished" not in (tmp_path / "out" / "ablation_two.md").read_text()


def command(*arguments):
    return subprocess.Popen(
        [PYTHON, "-m", "hbi_jax.ablate", "--config=configs/quickstart.py", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "error: --table is missing; give it, for instance --table=4"),
        (
            ("--table=8",),
            "error: --table=8: wanted one of 4, 5, 6, 7, weights, versions, teachers, pointing, hcmi, methods; choose "
            "among them",
        ),
        *(
            (
                ("--table=4", f"--seeds={seeds}"),
                f"error: --seeds={seeds}: wanted numbers in 0..4294967295 separated by commas; write --seeds=0,1,2",
            )
            for seeds in ("0,a", "²", "", "0,4294967296", "-1")
        ),
    ],
)
def test_wrong_flags_are_answered_in_one_line(arguments, message, tmp_path):
    process = command(f"--workdir={tmp_path}", *arguments)
    assert process.communicate()[0] == message + "\n"
    assert process.returncode == 1


@pytest.mark.slow
def test_a_table_of_real_runs_is_stopped_and_goes_on(tmp_path):
    """Told to stop in the first run, it waits until that has saved; started again, it goes on from there."""
    small = TINY | {"model.frame_layers": 0, "model.frame_positions": "absolute", "model.header": "mlp"}
    fields = [f"--config.{name}={value}" for name, value in small.items()]

    def run_until(pattern):
        process = command("--table=versions", "--seeds=3", f"--workdir={tmp_path}", *fields)
        while not list(tmp_path.glob(pattern)) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate()
        assert "stopping; the same command resumes" in output
        assert process.returncode == 128 + signal.SIGTERM
        return output

    run_until("contrastive-only-3-*/checkpoints/2")
    (log,) = tmp_path.glob("*/log.txt")
    assert "SIGTERM received: saving" in log.read_text()
    assert "3 runs, 0 of them finished" in run_until("ablation_versions.md")
    assert "resuming from step" in log.read_text()
    assert (tmp_path / "data" / "MSRVTT_data.json").exists()
    baseline, *others = Ablation.from_json((tmp_path / "ablation_versions.json").read_text()).lines
    (report,) = tmp_path.glob("contrastive-only-3-*/report.json")
    rows = [gallery["rows"][0] for gallery in json.loads(report.read_text())["galleries"]]
    (accuracy,) = [row["group_accuracy"] for row in rows if row["group_accuracy"] is not None]
    assert baseline.runs["3"]["in-group accuracy"] == accuracy
    assert baseline.runs["3"]["t2v R@1"] == rows[0]["metrics"]["t2v"]["R@1"]
    assert all(not line.runs and not line.failed for line in others)
