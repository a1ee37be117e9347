"""The table and the picture of steps at several sizes, of figures that nobody measured."""

import json

import jax
import pytest

from benchmarks import bench_plan, tables
from benchmarks.plot_plan import plot_plan
from hbi_jax.plan.account import Account, Bounds, Communication, Memory
from hbi_jax.plan.chips import CHIPS
from hbi_jax.plan.topology import Topology

GIB = 2**30


STEP = Account(
    "train_step",
    fits=True,
    needed=None,
    compile_seconds=61.4,
    instructions=1000,
    memory=Memory(1, 0, 2, 5 * GIB),
    flops=5_200_000_000_000,
    hbm_bytes=40_000_000_000,
    communication=(Communication("all-gather", True, 1, 8, 800, 700.0 * 1e6),),
    bounds=Bounds(26.0, 52.0, 3.5),
)
TOO_LARGE = Account("train_step", fits=False, needed=40.0 * GIB, compile_seconds=12.0)


def row(version, chips, rows, step=STEP, config="msrvtt", towers="ViT-B/32"):
    case = bench_plan.Case(version, f"v5e:{chips}", rows * chips, config, towers)
    about = {**case._asdict(), "chips": chips}
    more = {"rows_a_chip": float(rows), "usable_bytes": 15.75 * GIB, "load_average": [1.0, 1.0, 1.0]}
    return about | more | {"commit": "0123456789" * 4} | bench_plan.told(step)


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "SCALING", tmp_path / "scaling.png")

    def write(rows):
        known = {"device": {"cpu_cores": 2, "platform": "cpu"}, "versions": {"jax": "0", "python": "3"}, "rows": rows}
        (tmp_path / "bench_plan.json").write_text(json.dumps(known))
        return tmp_path

    return write


def test_a_table_of_what_was_compiled(results):
    results([row("V1", 8, 16), row("V2", 8, 16, TOO_LARGE)])
    first, second = tables.plan().splitlines()[2:4]
    assert first == "| V1, v5e:8 | 16 | 61 | 5.0 of 15.8 | 5.20 | 40.0 | 700 | 8 | 26.0 | 52.0 | 3.5 | 50 |"
    assert second.startswith("| V2, v5e:8 | 16 | 12 | 40.0, does not fit |  |")
    assert "Commit 01234567." in tables.plan()
    assert "scaling.png" not in tables.plan()


def test_larger_towers_have_a_table_of_their_own(results):
    folder = results([row("V1", 8, 16), row("V1", 64, 16, towers="ViT-L/14"), row("V2", 16, 8, config="activitynet")])
    steps, _, others, _ = tables.plan().split("\n\n")
    assert steps.count("\n| V") == 1
    first, second = others.splitlines()[2:]
    assert first.startswith("| msrvtt, ViT-L/14, auto | V1, v5e:64 | 16 | 61 |")
    assert second.startswith("| activitynet, ViT-B/32, auto | V2, v5e:16 | 8 | 61 |")
    tables.draw_plan()
    assert not (folder / "scaling.png").exists()


def test_nothing_is_claimed_before_it_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.plan() == "Not measured yet."


def test_several_sizes_make_a_picture(results):
    rows = [row(version, chips, 16) for version in ("V1", "V2") for chips in (8, 64)]
    folder = results(rows)
    tables.draw_plan()
    assert (folder / "scaling.png").stat().st_size > 10_000
    assert tables.plan().startswith("![Bounds of a step by the number of chips](images/scaling.png)")
    assert not plot_plan(rows[:1], folder / "one.png")
    assert not (folder / "one.png").exists()


def test_every_size_has_its_batches(monkeypatch):
    sizes = {"v5e:2x4": 8, "v5e:8x8": 64, "v5e:16x16": 256}
    device = jax.devices()[0]
    monkeypatch.setattr(bench_plan, "open_topology", lambda name: Topology(name, CHIPS["v5e"], [device] * sizes[name]))
    found = list(bench_plan.cases(["V1"], list(sizes)))
    assert [(case.topology, case.batch) for case in found] == [
        ("v5e:2x4", 64),
        ("v5e:2x4", 128),
        ("v5e:8x8", 128),
        ("v5e:8x8", 512),
        ("v5e:8x8", 1024),
        ("v5e:16x16", 2048),
        ("v5e:16x16", 4096),
    ]
    config = bench_plan.configuration(found[0])
    assert (config.train.batch_size, config.model.dtype, config.model.reconstruction) == (64, "bfloat16", False)
