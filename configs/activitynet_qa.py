"""ActivityNet-QA with the settings of HBI V2's paper on ViT-B/32.

Command:  python -m hbi_jax.main --config=configs/activitynet_qa.py --workdir=runs/activitynet_qa --config.init=FOLDER \
              --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of CLIP's weights (docs/pretrained.md)
Hardware: accelerators; not measured yet. To save memory: a smaller --config.train.batch_size, or
          --config.model.remat=blocks, which recomputes the activations of the towers
Expected: the paper's HBI V2 has an accuracy of 49.3 %. The vocabulary, the 1,654 answers that occur at least twice in
          training, covers 80.7 % of the test questions
"""

import pathlib
import runpy


def get_config():
    """Returns configs/msrvtt_qa.py with its own data and vocabulary, and longer texts and videos."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("msrvtt_qa.py")))["get_config"]()
    config.name = "HBI V2, ActivityNet-QA"

    config.data.dataset = "activitynet_qa"
    config.data.val_list = "val_q.json"
    config.data.num_words = 64
    config.data.num_frames = 64
    config.answers.vocabulary = ""
    config.answers.min_count = 2
    return config
