"""DiDeMo, paragraph to video, with the settings of HBI V2's paper on ViT-B/32.

Command:  python -m hbi_jax.main --config=configs/didemo.py --workdir=runs/didemo --config.init=FOLDER \
              --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of CLIP's converted weights (docs/pretrained.md)
Hardware: accelerators; not measured yet. To save memory: a smaller --config.train.batch_size, or
          --config.model.remat=blocks, which recomputes the activations of the towers
Expected: the paper's HBI V2 has text-to-video R@1 47.4, R@5 74.6, R@10 84.5, MnR 12.7
"""

import pathlib
import runpy


def get_config():
    """Returns configs/msrvtt.py with longer texts and videos, and a validation list."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("msrvtt.py")))["get_config"]()
    config.name = "HBI V2, DiDeMo"

    config.data.dataset = "didemo"
    config.data.num_words = 64
    config.data.num_frames = 32
    config.data.val_list, config.data.num_val_videos = "val_list.txt", 0
    return config
