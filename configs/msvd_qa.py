"""MSVD-QA with the settings of HBI V2's paper on ViT-B/32.

Command:  python -m hbi_jax.main --config=configs/msvd_qa.py --workdir=runs/msvd_qa --config.init=FOLDER \
              --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of CLIP's weights (docs/pretrained.md)
Hardware: accelerators; not measured yet. To save memory: a smaller --config.train.batch_size, or
          --config.model.remat=blocks, which recomputes the activations of the towers
Expected: the paper's HBI V2 has an accuracy of 53.4 %; the paper does not give the vocabulary. Here it has all answers
          of the training questions, 1,852 as distributed
"""

import pathlib
import runpy


def get_config():
    """Returns configs/msrvtt_qa.py with its own data and vocabulary."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("msrvtt_qa.py")))["get_config"]()
    config.name = "HBI V2, MSVD-QA"

    config.data.dataset = "msvd_qa"
    config.data.val_list = "val_qa.json"
    config.answers.vocabulary = ""
    return config
