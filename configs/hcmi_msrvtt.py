"""MSR-VTT retrieval, 1k-A split, with HCMI (Tencent Text-Video Retrieval).

Command:  python -m hbi_jax.main --config=configs/hcmi_msrvtt.py --workdir=runs/hcmi_msrvtt --config.init=FOLDER \
              --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of CLIP's converted weights (docs/pretrained.md); for ViT-B/16, add
          --config.model.clip.patch_size=16
Hardware: accelerators; not measured yet. To save memory: a smaller --config.train.batch_size, or
          --config.model.remat=blocks, which recomputes the activations of the towers
Expected: the paper has text-to-video R@1 55.0, R@5 80.4, R@10 86.8, with an unnamed backbone of at least ViT-B/16's
          class and, as a survey says, with dual softmax at test time; the report has rows with and without it. The
          paper's code and settings are not published: levels, margin, weights and rates are ours, the rest is that of
          CLIP4Clip (docs/hcmi.md)
"""

from hbi_jax.config import default_config


def get_config():
    """Returns HCMI with the words, frames, rates, batch size and epochs of CLIP4Clip."""
    config = default_config()
    config.name = "HCMI, MSR-VTT"

    model = config.model
    model.method = "hcmi"
    # A quarter as many clips as frames and phrases as words, then one vector for the video and for the sentence.
    model.levels = (("frame", 0, 0), ("clip", 8, 3), ("video", 1, 1))
    # The aggregation layers relate frames to one another; there is no temporal transformer and no game.
    model.frame_layers = 0
    model.header = "none"

    config.loss.interaction_weight = config.loss.distillation_weight = 0.0
    config.loss.denoising = True
    config.loss.margin_weight = 1.0

    data = config.data
    data.num_words, data.num_frames = 32, 12
    # Twelve segments, of which two views draw a frame each; three frames a second leave several in each segment.
    data.sampling, data.num_views, data.frames_per_second = "segments", 2, 3.0
    # Held out of the 9,000 training videos.
    data.num_val_videos = 500

    config.optimizer.learning_rate = 1e-4
    config.optimizer.clip_learning_rate = 1e-7

    config.eval.level_rates = (1 / 3, 1 / 3, 1 / 3)
    config.eval.normalize = ("dual_softmax",)

    config.train.batch_size = 128
    config.train.num_epochs = 5
    return config
