"""ActivityNet Captions, paragraph to video, as the first paper's code trains it (HBI, CVPR 2023), on ViT-B/32.

Command:  python -m hbi_jax.main --config=configs/activitynet_v1.py --workdir=runs/activitynet_v1 --config.init=FOLDER \
              --config.loss.estimator=FOLDER --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folders of CLIP's and the estimator's weights (docs/pretrained.md, configs/estimator_v1.py)
Hardware: accelerators; not measured yet. To save memory: a smaller --config.train.batch_size, or
          --config.model.remat=blocks, which recomputes the activations of the towers
Expected: the paper's HBI has text-to-video R@1 42.2, R@5 73.0, R@10 84.6, MnR 6.6. Like its
          code, this selects the best step on the test videos (config.data.protocol).
"""

import pathlib
import runpy


def get_config():
    """Returns configs/msrvtt_v1.py with longer texts and videos and twice the epochs."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("msrvtt_v1.py")))["get_config"]()
    config.name = "HBI V1, ActivityNet"

    config.model.levels = (("entity", 0, 0), ("action", 16, 16), ("event", 8, 8))

    config.data.dataset = "activitynet"
    config.data.train_list = "train_ids.json"
    config.data.galleries = {"test": "val_ids.json"}
    config.data.num_words = 64
    config.data.num_frames = 64
    config.data.augmentation = "none"

    # The published schedule always lasts five epochs, so over ten the rate rises again.
    config.train.num_epochs = 10
    config.optimizer.schedule_share = 0.5
    return config
