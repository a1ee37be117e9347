"""MSR-VTT retrieval, 1k-A split, with the settings of HBI V2's paper on ViT-B/32.

Command:  python -m hbi_jax.main --config=configs/msrvtt.py --workdir=runs/msrvtt --config.init=FOLDER \
              --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of CLIP's converted weights (docs/pretrained.md)
Hardware: accelerators; not measured yet. To save memory: a smaller --config.train.batch_size, or
          --config.model.remat=blocks, which recomputes the activations of the towers
Expected: the paper's HBI V2 has text-to-video R@1 49.4, R@5 74.6, R@10 83.8, MnR 12.2. Without pre-trained weights
          it learns little.
"""

from hbi_jax.config import default_config


def get_config():
    """Returns the defaults, which have the sizes of this model, with the settings of the data set."""
    config = default_config()
    config.name = "HBI V2, MSR-VTT"

    config.data.num_words = 32
    config.data.num_frames = 12
    # Held out of the 9,000 training videos; the published code validates on the test videos instead.
    config.data.num_val_videos = 500
    config.model.weight_features = 128
    config.model.reconstruction = True

    config.optimizer.learning_rate = 1e-3
    config.optimizer.clip_learning_rate = 1e-7
    # As in the published code, the patch convolution is not trained.
    config.optimizer.frozen = ("^params/vision_tower/patch_embedding",)

    config.train.batch_size = 128
    config.train.num_epochs = 5
    return config
