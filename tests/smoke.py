"""Everything once, as a user does it: from the wheel, in an empty folder, with the commands of the README.

`make smoke` runs this file. It is no part of the suite, which tests every step more closely, but on one Python only;
this is for the others.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from hbi_jax.pretrained import to_state_dict
from tests import wheel
from tests.pretrained.foreign import HBI, weights, write_state
from tests.tiny_run import TINY

STEPS = 20
# Two levels, so that tokens are merged and the game is played, and little else: compiling takes the most time here.
SMALL = {
    **TINY,
    "model.levels": (("entity", 0, 0), ("action", 8, 3)),
    "model.frame_layers": 0,
    "model.frame_positions": "absolute",
    "loss.motion_weight": 0.0,
    "model.header": "mlp",
    "eval.level_rates": (0.5, 0.5),
    "train.num_steps": STEPS,
    "train.log_every": 1,
    "train.eval_every": 10,
    "train.checkpoint_every": 5,
}
# Answers and captions are heads on the same levels; one will do, without the game.
PLAIN = {
    **SMALL,
    "data.world.near_twin_share": 0.9,
    "model.levels": (("entity", 0, 0),),
    "loss.interaction_weight": 0.0,
    "eval.level_rates": (1.0,),
    "train.num_steps": 4,
    "train.eval_every": 4,
    "train.checkpoint_every": 4,
}


class Place:
    """An empty folder in which the installed package is used."""

    def __init__(self, folder: pathlib.Path, installed: pathlib.Path, cache: pathlib.Path):
        self.folder = folder
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(installed),
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    def start(self, module: str, *arguments: str) -> subprocess.Popen:
        """Starts `python -m hbi_jax.MODULE`."""
        return subprocess.Popen(
            [sys.executable, "-m", f"hbi_jax.{module}", *arguments],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, module: str, *arguments: str) -> str:
        """Runs it to its end, which must be a good one; returns what it printed."""
        process = self.start(module, *arguments)
        output = process.communicate()[0]
        assert process.returncode == 0, output
        return output

    def report(self, workdir: str) -> dict:
        """The report of a run."""
        return json.loads((self.folder / workdir / "report.json").read_text())

    def rows(self, workdir: str) -> list[dict]:
        """The logged metrics of a run so far."""
        path = self.folder / workdir / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def state(self, workdir: str) -> dict:
        """Parameters and optimizer of a run's last step, as numpy arrays."""
        folder = self.folder / workdir / "checkpoints" / str(STEPS)
        return {name: _arrays(folder / name) for name in ("params", "opt_state")}


def _arrays(folder: pathlib.Path) -> dict:
    checkpointer = ocp.PyTreeCheckpointer()
    kinds = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), checkpointer.metadata(folder).item_metadata
    )
    return checkpointer.restore(folder, restore_args=kinds)


def _flags(fields: dict) -> list[str]:
    return [f"--config.{name}={value}" for name, value in fields.items()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The package from its wheel, and nothing else."""
    tree, out, installed, folder, cache = (
        tmp_path_factory.mktemp(name) for name in ("tree", "wheel", "installed", "empty", "cache")
    )
    wheel.install(wheel.build(tree, out), installed)
    return Place(folder, installed, cache)


@pytest.fixture(scope="module")
def world():
    """Flags that let a run read what the first one rendered."""
    return ["--config.data.annotations=whole/data", "--config.data.videos=whole/data/videos"]


@pytest.fixture(scope="module")
def whole(place):
    """An uninterrupted run."""
    place.run("main", "--config=quickstart", "--workdir=whole", *_flags(SMALL))
    return place.report("whole")


def test_it_renders_trains_and_reports(place, whole):
    assert len(list((place.folder / "whole/data/videos").glob("*.mp4"))) == 40 + 8 + 8 + 2 * 4
    assert whole["training"]["steps"] == STEPS
    losses = [row["loss/total"] for row in place.rows("whole") if "loss/total" in row]
    assert len(losses) == STEPS
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    test = whole["galleries"][0]
    assert test["rows"][0]["metrics"]["t2v"]["R@10"] == 100.0
    text = (place.folder / "whole/report.md").read_text()
    assert all((place.folder / "whole" / name).exists() for name in ("pictures/training.png", "report.md")), text


def test_what_is_stopped_ends_bitwise_where_an_uninterrupted_run_ends(place, whole, world):
    command = ("main", "--config=quickstart", "--workdir=stopped", *_flags(SMALL), *world)
    process = place.start(*command)
    while process.poll() is None and len(place.rows("stopped")) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    assert f"of {STEPS} as asked" in output
    place.run(*command)
    jax.tree.map(np.testing.assert_array_equal, place.state("stopped"), place.state("whole"))
    assert place.report("stopped")["galleries"] == whole["galleries"]


def test_it_is_evaluated_again(place, whole):
    place.run("main", "--config=quickstart", "--workdir=whole", "--mode=evaluate", *_flags(SMALL))
    assert place.report("whole")["galleries"] == whole["galleries"]


def test_questions(place, whole, world):
    fields = {"data.val_list": "val.jsonl", "data.galleries": {"test": "test.jsonl"}, "answers.top_answers": 12}
    place.run("main", "--config=quickstart_qa", "--workdir=questions", *_flags(PLAIN | fields), *world)
    assert "overall, %" in place.report("questions")["tables"][0]["columns"]
    video = min((place.folder / "whole/data/videos").glob("*.mp4"))
    asked = place.run("ask", "--checkpoint=questions", str(video), "what color is it?", "--top=3", "--jsonl=answers")
    (answer,) = [json.loads(line) for line in (place.folder / "answers").read_text().splitlines()]
    assert len(answer["answers"]) == 3
    assert 1 >= sum(answer["probabilities"]) > 3 / 12
    assert answer["answers"][0] in asked


def test_captions(place, whole, world):
    fields = {"data.galleries": {"test": "test"}, "captions.max_words": 10, "captions.num_beams": 2}
    place.run("main", "--config=quickstart_caption", "--workdir=captions", *_flags(PLAIN | fields), *world)
    video = min((place.folder / "whole/data/videos").glob("*.mp4"))
    said = place.run("caption", "--checkpoint=captions", str(video), "--jsonl=captions.jsonl")
    (caption,) = [json.loads(line) for line in (place.folder / "captions.jsonl").read_text().splitlines()]
    assert caption["error"] is None
    assert str(video) in said


def test_videos_are_indexed_and_found(place, whole):
    videos = place.folder / "whole/data/videos"
    said = place.run("search", "index", "my.index", "--checkpoint=whole", str(videos))
    count = len(list(videos.iterdir()))
    assert f"my.index: {count} videos, " in said
    said = place.run("search", "find", "my.index", "a red square slides left", "--top=2", "--html=result.html")
    assert said.count(f"  {videos}/") == 2
    assert (place.folder / "result.html").read_text().count("<video ") == 2


def test_weights_of_others_and_back(place):
    published = to_state_dict(weights("hbi", HBI))
    write_state(place.folder / "best.pth", published)
    place.run("pretrained", "convert", "best.pth", "converted", "--words=32")
    place.run("pretrained", "export", "converted", "exported")
    place.run("pretrained", "convert", "exported", "again")
    shown = [place.run("pretrained", "show", name).splitlines()[1:] for name in ("converted", "again")]
    assert shown[0] == shown[1]
    first, second = (np.concatenate([a.ravel() for a in _numbers(place.folder / n)]) for n in ("converted", "again"))
    np.testing.assert_array_equal(first, second)


def _numbers(folder: pathlib.Path) -> list[np.ndarray]:
    from hbi_jax import load

    return jax.tree.leaves(load(folder).params)


# Stands in for gcloud: one worker, whose home folder is $WORKER and whose programs are those of $PROGRAMS. It keeps
# nothing of the environment but where packages come from.
GCLOUD = """#!/usr/bin/env bash
set -euo pipefail
if [ "$4" = scp ]; then
  cp "$5" "$WORKER/hbi_jax.tgz"
else
  kept=()
  while IFS= read -r line; do kept+=("$line"); done < <(env | grep -E "^(PIP_|UV_|[a-zA-Z]*_proxy=|[A-Z]*_PROXY=|SSL_)")
  command=${*: -1}
  cd "$WORKER"
  exec env -i "HOME=$WORKER" "PATH=$PROGRAMS:/usr/bin:/bin" JAX_PLATFORMS=cpu "${kept[@]}" \\
    bash -c "${command#--command=}"
fi
"""
TPU = (wheel.ROOT / "launch/tpu.sh").read_text()


@pytest.mark.skipif(
    re.search(r"--python (\S+)", TPU)[1] != f"{sys.version_info.major}.{sys.version_info.minor}",
    reason="launch/tpu.sh installs another Python",
)
def test_what_the_launch_script_runs_on_a_worker(tmp_path):
    """All but gcloud and the chips: uv, a bare environment with jax[tpu], a short training there."""
    worker, programs = tmp_path / "home", tmp_path / "bin"
    worker.mkdir()
    programs.mkdir()
    (programs / "gcloud").write_text(GCLOUD)
    (programs / "gcloud").chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = wheel.run(
        *(shutil.which("bash"), wheel.ROOT / "launch/tpu.sh", "run", "-n", "pod", "-z", "here", "--"),
        *(f"--coordinator=127.0.0.1:{port}", "--num_processes=1", "--process_id=0"),
        *("--config=quickstart", f"--workdir={worker / 'a run'}", *_flags(PLAIN | {"data.world.num_train": 16})),
        cwd=tmp_path,
        PATH=f"{programs}{os.pathsep}{os.environ['PATH']}",
        WORKER=str(worker),
        PROGRAMS=os.path.join(sys.base_prefix, "bin"),
        # uv keeps packages between the runs of this test, as pip does.
        UV_CACHE_DIR=os.environ.get("UV_CACHE_DIR", str(pathlib.Path.home() / ".cache/uv")),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (worker / "a run/report.md").exists()
    installed = {path.name.partition("-")[0] for path in worker.glob("hbi_jax/.venv/lib/*/site-packages/*.dist-info")}
    assert {"jax", "libtpu", "hbi_jax"} <= installed
