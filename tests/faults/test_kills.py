"""Runs that are killed at random moments, of one process and of two: the parameters and the report stay the same."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import compilation
from tests.faults.jobs import only_when_asked

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
# In a process of its own, which forks before JAX starts its devices.
PROGRAM = """
import json, pathlib, sys
import hbi_jax.experiment, hbi_jax.main
from tests.faults.jobs import flags
from tests.faults.kills import campaign
folder, count, total, seed = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
arguments = [flag for flag in flags(folder / "world", folder, train__num_steps=8, train__checkpoint_every=2)]
arguments = [flag for flag in arguments if not flag.startswith("--workdir")]
kills, different = campaign(arguments, folder, total, seed, count, each=3)
print(json.dumps({"kills": kills, "different": different}))
"""


@pytest.mark.parametrize(("processes", "kills"), [(1, 3), pytest.param(2, 2, marks=only_when_asked)])
def test_after_kills_at_random_moments_the_result_is_that_of_an_undisturbed_run(tmp_path, processes, kills):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment |= {name.upper(): str(value) for name, value in compilation.SETTINGS.items()}
    environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "programs")
    if processes > 1:
        del environment["JAX_COMPILATION_CACHE_DIR"]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(processes), str(kills), "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["different"] == []
    assert len(found["kills"]) == kills
    # Where one of two processes is killed after the start, the other ends within seconds.
    assert all(survivors < 25 for _, stage, _, survivors in found["kills"] if stage != "starting")
