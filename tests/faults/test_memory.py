"""Memory over many steps, with all loggers: it stays flat."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from hbi_jax.data import shapes

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]


def test_memory_is_flat_over_thousands_of_steps(tmp_path):
    """In a process of its own, whose memory no other test has touched."""
    world = shapes.WorldConfig(num_train=24, num_val=8, num_test=8, num_twin_groups=2)
    shapes.generate(tmp_path / "world", world, num_workers=1, show_progress=False)
    command = [sys.executable, "-m", "tests.faults.memory", str(tmp_path / "world"), str(tmp_path / "run"), "2000"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["rise"] < 0.02
