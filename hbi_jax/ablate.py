"""Runs a table of ablations: several seeds of every model, run by run.

  python -m hbi_jax.ablate --table=4 --config=configs/quickstart.py --workdir=runs/ablations

Tables: 4, 5, 6 and 7 as in HBI V2's paper; weights (its Fig. 8), versions (baseline, V1, V2) and teachers (exact,
estimator, sampled); several with commas between. Every run is a `python -m hbi_jax.main` in a folder of --workdir,
which keeps what it prints in log.txt. All runs have one rendered world; tables share the runs that they have in common.
The same command goes on with what was interrupted, tries again what failed, and takes as it is what is finished. After
every run the tables are written anew, as far as they are: ablation_4.md, .json and .png.
"""

import logging
import pathlib
import shlex
import signal
import sys

from absl import flags
from ml_collections import config_flags

from hbi_jax.ablations.tables import TABLES
from hbi_jax.commands import cli

# Not __name__, which is __main__ here.
_log = logging.getLogger("hbi_jax.ablate")

_TABLE = flags.DEFINE_list("table", None, f"Which: {', '.join(TABLES)}; several with commas between.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every model. All models have the first, then the next.")


def _stop(number: int, frame: object) -> None:
    # Ends the wait for a run, which is then told to stop and saves first.
    _log.info("stopping; the same command goes on from here")
    sys.exit(128 + number)


def _main() -> int:
    """Makes the tables that the flags ask for."""
    cli.wanted((_TABLE, "4"), (cli.CONFIG, "quickstart"), (cli.WORKDIR, "runs/ablations"))
    for name in _TABLE.value:
        if name not in TABLES:
            cli.fail(f"--table={name}: wanted one of {', '.join(TABLES)}; choose among them")
    if not _SEEDS.value or not all(seed.isdigit() for seed in _SEEDS.value):
        cli.fail(f"--seeds={','.join(_SEEDS.value)}: wanted numbers with commas between; write --seeds=0,1,2")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    from hbi_jax.ablations.runner import Base, make_tables

    flag, workdir = flags.FLAGS["config"], pathlib.Path(cli.WORKDIR.value)
    base = Base(cli.CONFIG.value, config_flags.get_config_filename(flag), config_flags.get_override_values(flag))
    command = shlex.join(["python", "-m", "hbi_jax.ablate", *sys.argv[1:]])
    good = make_tables(_TABLE.value, base, workdir, [int(seed) for seed in _SEEDS.value], workdir, command)
    _log.info("the tables are in %s", ", ".join(str(workdir / f"ablation_{name}.md") for name in _TABLE.value))
    return 0 if good else 1


if __name__ == "__main__":
    cli.run(_main, __name__, __doc__)
