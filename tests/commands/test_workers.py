"""Which share a process does: by the options, or by whoever started it."""

import pytest

from hbi_jax.commands.workers import Share, share


@pytest.mark.parametrize(
    ("options", "environment", "wanted"),
    [
        ((None, None), {}, Share(0, 1, "default")),
        ((2, 8), {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6"}, Share(2, 8, "options")),
        ((None, None), {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6"}, Share(5, 6, "SLURM")),
        # The script of a job, which srun has not started.
        ((None, None), {"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}, Share(0, 1, "default")),
        ((None, 4), {"JOB_COMPLETION_INDEX": "3"}, Share(3, 4, "Kubernetes")),
        ((None, None), {"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "4"}, Share(3, 4, "Kubernetes")),
        ((None, None), {"JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": "2"}, Share(1, 2, "JAX")),
    ],
)
def test_the_share(options, environment, wanted):
    assert share(*options, environment) == wanted


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        ((None, 4), {}, "workers=4 without worker: wanted the number of this one too"),
        ((1, None), {}, "worker=1 without workers: wanted how many there are"),
        ((4, 4), {}, "worker=4: wanted 0 to 3 of workers=4"),
        ((None, None), {"JOB_COMPLETION_INDEX": "3"}, "JOB_COMPLETION_INDEX is set, but not how many workers"),
        ((None, 2), {"JOB_COMPLETION_INDEX": "3"}, "worker=3: wanted 0 to 1 of workers=2"),
        ((None, 2), {"JOB_COMPLETION_INDEX": "²"}, "workers=2 without worker: wanted the number of this one too"),
        ((None, None), {"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "²"}, "JOB_COMPLETION_INDEX is set, but not"),
    ],
)
def test_what_is_missing_is_told(options, environment, message):
    with pytest.raises(ValueError, match=message):
        share(*options, environment)
