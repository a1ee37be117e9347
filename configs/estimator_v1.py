"""Pre-training of the estimator as published for HBI: sampled labels, on MSR-VTT.

Command:  python -m hbi_jax.main --config=configs/estimator_v1.py --workdir=runs/estimator_v1 \
              --config.init=FOLDER --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of a converted model (python -m hbi_jax.pretrained convert)
Hardware: not measured yet
Expected: no published result. These labels estimate Eq. 1; those of the published sampler do not (docs/differences.md).
"""

import pathlib
import runpy


def get_config():
    """Returns configs/estimator.py on configs/msrvtt_v1.py, with sampled labels."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("estimator.py")))["get_config"]("msrvtt_v1")
    config.name = "estimator V1"
    config.data.protocol = "held_out"
    config.loss.teacher = "exact"
    config.estimator.labels = "sampled"
    config.estimator.num_samples = 1000
    return config
