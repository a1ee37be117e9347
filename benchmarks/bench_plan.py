"""Steps compiled for TPUs that are not here: V1 and V2 of configs/msrvtt.py in bfloat16, on slices of several sizes.

    python -m benchmarks.bench_plan                                     # everything: hours on two cores
    python -m benchmarks.bench_plan --topologies v5e:2x4 --versions V1  # a part
    python -m benchmarks.bench_plan --others                            # larger towers, configs/activitynet.py, fsdp
    python -m benchmarks.bench_plan --others --fsdp                     # of these, the ones with parameters spread

Weak scaling (8 and 16 rows a chip), and the paper's batch of 128. Results are added to those in bench_plan.json, and
written after every compilation, so the benchmark can be interrupted. It needs libtpu (`pip install '.[plan]'`).
Claims: no collective stands in a loop over pairs, and the bytes that a chip sends grow at most linearly with the batch.
"""

import argparse
import json
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax

from benchmarks.harness import environment, write
from hbi_jax.commands.cli import start_logging
from hbi_jax.commands.config_files import load
from hbi_jax.config import Config, parse
from hbi_jax.plan.account import Account
from hbi_jax.plan.plan import TRAIN_STEP, make_plan
from hbi_jax.plan.topology import Topology, open_topology
from hbi_jax.pretrained.sizes import ARCHITECTURES, SIZE_FIELDS

NAME = "bench_plan"
VERSIONS = {"V1": False, "V2": True}
TOPOLOGIES = ("v5e:2x4", "v5p:2x2x2", "v5e:8x8", "v5e:16x16")
ROWS_A_CHIP, PAPER_BATCH = (8, 16), 128


class Case(NamedTuple):
    """One step to compile: a version, on a slice, with a batch, and what of its configuration is changed."""

    version: str
    topology: str
    batch: int
    config: str = "msrvtt"
    towers: str = "ViT-B/32"
    remat: str = "auto"
    fsdp: bool = False


OTHERS = (
    Case("V2", "v5e:4x4", PAPER_BATCH, "activitynet"),
    Case("V1", "v5e:2x4", PAPER_BATCH, towers="ViT-B/16"),
    Case("V1", "v5e:2x4", PAPER_BATCH, towers="ViT-L/14"),
    Case("V1", "v5e:2x4", PAPER_BATCH, towers="ViT-L/14", remat="blocks"),
    Case("V1", "v5e:2x4", PAPER_BATCH, towers="ViT-L/14", remat="blocks", fsdp=True),
    Case("V1", "v5e:2x4", PAPER_BATCH, fsdp=True),
    Case("V2", "v5e:8x8", PAPER_BATCH, "activitynet", "ViT-L/14"),
    Case("V2", "v5e:8x8", PAPER_BATCH, "activitynet", "ViT-L/14", "blocks"),
)


def cases(versions: list[str], topologies: list[str]) -> Iterator[Case]:
    """Yields the steps to compile, quick ones first."""
    for topology in topologies:
        chips = len(open_topology(topology).devices)
        batches = {rows * chips for rows in ROWS_A_CHIP} | ({PAPER_BATCH} if PAPER_BATCH % chips == 0 else set())
        for batch in sorted(batches):
            yield from (Case(version, topology, batch) for version in versions)


def configuration(case: Case) -> Config:
    """Returns the configuration of a case."""
    config = load(case.config)
    config.model.dtype, config.model.remat, config.mesh.fsdp = "bfloat16", case.remat, case.fsdp
    config.model.clip.update(dict(zip(SIZE_FIELDS, ARCHITECTURES[case.towers], strict=True)))
    config.model.reconstruction = VERSIONS[case.version]
    config.train.batch_size = case.batch
    return parse(config)


def measure(case: Case, topology: Topology) -> dict:
    """Compiles a step; returns a row of the results."""
    # The code that is compiled is the one of the beginning.
    started = environment()
    (step,) = make_plan(configuration(case), topology, "train").accounts
    assert step.name == TRAIN_STEP
    # Compiled programs of this size fill the memory.
    jax.clear_caches()
    return {
        **case._asdict(),
        "chips": len(topology.devices),
        "rows_a_chip": case.batch / len(topology.devices),
        "usable_bytes": topology.chip.usable,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "commit": started["commit"],
        "date": started["date"],
        **told(step),
    }


def told(step: Account) -> dict:
    """Returns the figures of a step; those of one that does not fit are its compile time and its need of memory."""
    row = {"fits": step.fits, "needed_bytes": step.needed, "compile_s": round(step.compile_seconds, 1)}
    if step.memory is None:
        return row
    return row | {
        "instructions": step.instructions,
        "argument_bytes": step.memory.arguments,
        "temporary_bytes": step.memory.temporaries,
        "peak_bytes": step.memory.peak,
        "flops": step.flops,
        "flops_counted": step.flops_counted,
        "hbm_bytes": step.hbm_bytes,
        "on_chip_bytes": step.on_chip_bytes,
        "bytes_counted": step.bytes_counted,
        "loops": step.loops,
        "iterations": step.iterations,
        "collectives": [found.__dict__ for found in step.communication],
        "in_loop_runs": sum(found.runs for found in step.communication if found.in_loop),
        "sent_bytes": sum(found.sent for found in step.communication),
        "compute_ms": step.bounds.compute,
        "hbm_ms": step.bounds.memory,
        "ici_ms": step.bounds.interconnect,
        "binds": step.bounds.binds,
        "mfu_bound": step.utilisation,
    }


def _case(row: dict) -> Case:
    """Returns the case of a row; fields that are newer than the row have their defaults."""
    return Case(**{name: row[name] for name in Case._fields if name in row})


def _place(row: dict) -> tuple:
    """Returns what the rows are sorted by: those of the first claims first."""
    usual = Case(row["version"], row["topology"], row["batch"])
    return _case(row) != usual, row["version"], row["topology"][:3], row["chips"], row["batch"]


def main() -> None:
    """Compiles the cases that the flags name, and adds them to bench_plan.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"))
    parser.add_argument("--versions", nargs="+", choices=VERSIONS, default=list(VERSIONS))
    parser.add_argument("--topologies", nargs="+", default=list(TOPOLOGIES), help=f"default: {' '.join(TOPOLOGIES)}")
    parser.add_argument("--others", action="store_true", help="only the other towers and configurations")
    parser.add_argument("--fsdp", action="store_true", help="of the others, only those that spread parameters")
    flags = parser.parse_args()
    if flags.fsdp and not flags.others:
        parser.error("--fsdp chooses among --others; add --others")
    # Says what is being compiled, and for how long.
    start_logging(verbose=False)
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"{NAME}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    chosen = OTHERS if flags.others else cases(flags.versions, flags.topologies)
    for case in (case for case in chosen if case.fsdp or not flags.fsdp):
        print(f"compiling {', '.join(map(str, case))}", flush=True)
        row = measure(case, open_topology(case.topology))
        print(json.dumps(row), flush=True)
        rows = [other for other in rows if _case(other) != case] + [row]
        rows.sort(key=_place)
        write(flags.out, NAME, {"rows": rows})


if __name__ == "__main__":
    main()
