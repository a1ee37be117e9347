"""Runs ablation tables: every model with several seeds, one run at a time.

  python -m hbi_jax.ablate --table=4 --config=configs/quickstart.py --workdir=runs/ablations

Tables: 4, 5, 6 and 7 of the HBI V2 paper, weights (its Fig. 8), versions (baseline, V1, V2), teachers (exact,
estimator, 1,000 and 100 sampled coalitions), pointing (what may make words point), hcmi (the parts of HCMI) and methods
(baseline, V1, V2, HCMI, V1 with the motion loss); separate several with commas. Every run is a
`python -m hbi_jax.main` in a folder of --workdir, with its output in log.txt. All runs share one rendered world, and
tables share common runs. The same command resumes interrupted runs, retries failed runs and keeps finished runs. After
every run the tables are updated with the results so far: ablation_4.md, .json and .png.
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
from hbi_jax.commands.seeds import LARGEST_SEED, parse_seed

# Not __name__, which is __main__ here.
_log = logging.getLogger("hbi_jax.ablate")

_TABLE = flags.DEFINE_list("table", None, f"Tables to make, separated by commas: {', '.join(TABLES)}.")
_SEEDS = flags.DEFINE_list(
    "seeds", ["0", "1", "2"], "Seeds of every model. All models run with the first seed, then with the next."
)


def _stop(number: int, frame: object) -> None:
    # Exiting ends the wait for the current run, which is then stopped after saving a checkpoint.
    _log.info("stopping; the same command resumes from here")
    sys.exit(128 + number)


def _main() -> int:
    """Makes the tables given by the flags."""
    cli.wanted((_TABLE, "4"), (cli.CONFIG, "quickstart"), (cli.WORKDIR, "runs/ablations"))
    for name in _TABLE.value:
        if name not in TABLES:
            cli.fail(f"--table={name}: wanted one of {', '.join(TABLES)}; choose among them")
    try:
        seeds = [parse_seed(seed) for seed in _SEEDS.value]
    except ValueError:
        seeds = []
    if not seeds:
        cli.fail(
            f"--seeds={','.join(_SEEDS.value)}: wanted numbers in 0..{LARGEST_SEED} separated by commas; write "
            "--seeds=0,1,2"
        )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    from hbi_jax.ablations.runner import Base, make_tables

    flag, workdir = flags.FLAGS["config"], pathlib.Path(cli.WORKDIR.value).expanduser()
    base = Base(cli.CONFIG.value, config_flags.get_config_filename(flag), config_flags.get_override_values(flag))
    command = shlex.join(["python", "-m", "hbi_jax.ablate", *sys.argv[1:]])
    good = make_tables(_TABLE.value, base, workdir, seeds, workdir, command)
    _log.info("the tables are in %s", ", ".join(str(workdir / f"ablation_{name}.md") for name in _TABLE.value))
    return 0 if good else 1


if __name__ == "__main__":
    cli.run(_main, __name__, __doc__)
