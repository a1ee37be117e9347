"""The number of training rows of published data sets, for plans that are made without the data."""

from hbi_jax.data.config import DataConfig

# Training videos, and texts of each, of the data sets whose configurations name them (docs/data.md).
_TRAINING = {"msrvtt": (9000, 20), "msrvtt_caption": (6513, 20), "activitynet": (10009, 1)}


def training_rows(config: DataConfig) -> int | None:
    """Returns the rows of an epoch, or None if only the data can tell."""
    if config.dataset not in _TRAINING or config.train_list or config.render:
        return None
    videos, texts = _TRAINING[config.dataset]
    if not config.val_list:
        videos -= config.num_val_videos
    return videos * (1 if config.captions_per_video == "one" else texts)
