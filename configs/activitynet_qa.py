"""ActivityNet-QA with the settings of HBI V2's paper on ViT-B/32.

Command:  python -m hbi_jax.main --config=configs/activitynet_qa.py --workdir=runs/activitynet_qa --config.init=FOLDER \
              --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of CLIP's weights (docs/pretrained.md)
Hardware: accelerators; not measured yet. Short of memory: --config.model.remat=blocks
Expected: the paper's HBI V2 answers 49.3 % right; of the test questions 80.7 % have one of the 1,654 answers that
          occur twice or more in training
"""

import pathlib
import runpy


def get_config():
    """That of configs/msrvtt_qa.py with its own data and vocabulary, and longer texts and videos."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("msrvtt_qa.py")))["get_config"]()
    config.name = "HBI V2, ActivityNet-QA"

    config.data.dataset = "activitynet_qa"
    config.data.val_list = "val_q.json"
    config.data.num_words = 64
    config.data.num_frames = 64
    config.answers.vocabulary = ""
    config.answers.min_count = 2
    return config
