"""ActivityNet Captions, paragraph to video, with the settings of HBI V2's paper on ViT-B/32.

Command:  python -m hbi_jax.main --config=configs/activitynet.py --workdir=runs/activitynet --config.init=FOLDER \
              --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of CLIP's converted weights (docs/pretrained.md)
Hardware: accelerators; not measured yet. To save memory: a smaller --config.train.batch_size, or
          --config.model.remat=blocks, which recomputes the activations of the towers
Expected: the paper's HBI V2 has text-to-video R@1 45.5, R@5 75.3, R@10 86.0, MnR 6.5
"""

import pathlib
import runpy


def get_config():
    """Returns configs/msrvtt.py with longer texts and videos."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("msrvtt.py")))["get_config"]()
    config.name = "HBI V2, ActivityNet"

    config.data.dataset = "activitynet"
    config.data.num_words = 64
    config.data.num_frames = 64
    # Held out of the 10,009 training videos; the published code validates on the test videos instead.
    config.data.num_val_videos = 500
    return config
