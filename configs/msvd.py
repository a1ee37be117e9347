"""MSVD, every caption a query, with the settings of CLIP4Clip on ViT-B/32.

Command:  python -m hbi_jax.main --config=configs/msvd.py --workdir=runs/msvd --config.init=FOLDER \
              --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of CLIP's converted weights (docs/pretrained.md)
Hardware: accelerators; not measured yet. To save memory: a smaller --config.train.batch_size, or
          --config.model.remat=blocks, which recomputes the activations of the towers
Expected: no published result of HBI. CLIP4Clip with mean pooling has text-to-video R@1 46.2, R@5 76.1, R@10 84.6,
          MnR 10.0
"""

import pathlib
import runpy


def get_config():
    """Returns the model of configs/msrvtt.py with the frames, words, rates, batch size and epochs of CLIP4Clip."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("msrvtt.py")))["get_config"]()
    config.name = "HBI V2, MSVD"

    config.data.dataset = "msvd"
    config.data.num_words = 32
    config.data.num_frames = 12
    config.data.val_list, config.data.num_val_videos = "val_list.txt", 0

    config.optimizer.learning_rate = 1e-4
    config.optimizer.clip_learning_rate = 1e-7

    config.train.batch_size = 128
    config.train.num_epochs = 5
    return config
