"""The embedded data set, from towers that know single pictures.

Command:  python -m hbi_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
          From nothing: --config=configs/quickstart.py:scratch
Hardware: two CPU cores, about three minutes, rendering included
Expected: R@1 92 on the test videos, and the right one of four near-twins for 73 % of their captions, in the mean of
          five seeds
"""

from hbi_jax.config import default_config


def get_config(start: str = "shapes-clip"):
    """Returns small towers that start from `start`, or from nothing (`scratch`), and videos in the work folder.

    Raises:
      ValueError: If the start is unknown.
    """
    if start not in ("shapes-clip", "scratch"):
        raise ValueError(f"--config=quickstart:{start}: wanted nothing after the colon, or scratch; correct it")
    config = default_config()

    clip = config.model.clip
    clip.image_size, clip.patch_size = 48, 8
    clip.vision_width, clip.vision_layers = 64, 3
    clip.text_width, clip.text_layers = 64, 2
    clip.embed_features, clip.head_features = 128, 32
    config.model.levels = (("entity", 0, 0), ("action", 8, 4), ("event", 3, 2))
    config.model.frame_layers = 2
    # A frame of the first level that has seen only those just before it stays one moment of its video, and means the
    # same wherever it is. Merged levels see the whole video.
    config.model.frame_past = 1
    config.model.frame_positions = "relative"
    # The end token has seen the whole text; left as a player, it does what the words should do. Frames that no word
    # speaks of match the start token.
    config.model.end_tokens = "start"
    # This bounds the gates of HBI V2 (config.model.reconstruction), which otherwise grow without limit.
    config.model.gate_bound = 0.5
    config.model.max_frames = 8
    config.model.weight_features = 128
    config.model.initial_logit_scale = 80.0
    config.model.merge_heads = 4
    config.model.header_features = 16

    data = config.data
    data.render = "shapes"
    world = data.world
    world.num_train, world.num_val, world.num_test, world.num_twin_groups = 4000, 200, 256, 50
    world.two_event_share = 0.4
    # Most training videos have near-twins, so that a batch of 64 contains some. Without them, the entities alone would
    # tell all videos of a batch apart.
    world.near_twin_share, world.groups_per_family = 0.9, 9
    world.distractor_share = 0.2
    # Label noise: 0.2 makes every fifth training caption describe other training videos as well.
    world.duplicate_share, world.videos_per_scene = 0.0, 40
    data.annotations = "{workdir}/data"
    data.videos = "{workdir}/data/videos"
    data.val_list = "MSRVTT_val.csv"
    data.galleries = {"test": "MSRVTT_JSFUSION_test.csv", "twins": "MSRVTT_JSFUSION_twins.csv"}
    data.num_words = 24
    # Every third frame of the 24 in a clip of 3 s.
    data.num_frames = 8
    data.frames_per_second = 8 / 3
    data.cache_gib = 1.0
    data.num_threads = 1

    # Small towers have similarities, and so interactions, over all of [-1, 1] instead of CLIP's narrow band. A teacher
    # that is standardised within each pair needs no factor of its own for them, nor for the levels.
    config.loss.teacher_temperature = 1.0
    # Captions tell what happens, which the frames one by one do not show.
    config.loss.motion_weight = 1.0
    # This is the factor of a teacher of fixed scale, and of an estimator's labels.
    config.loss.interaction_scale = 50.0

    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 4e-3
    if start == "shapes-clip":
        # The vision tower stays as it is, so every frame is encoded once, before training. The text tower has yet to
        # learn the words for actions, which no single picture shows.
        config.init = start
        config.optimizer.frozen = ("vision_tower", "text_tower/token_embedding")
        config.optimizer.clip_learning_rate = 2e-3
        data.cache_features = True
        config.train.num_steps, config.train.eval_every = 800, 200
    else:
        # Nothing is pre-trained, so the towers have the learning rate of the other modules.
        config.optimizer.clip_learning_rate = 4e-3
        config.train.num_steps, config.train.eval_every = 1150, 230
    config.train.checkpoint_every = config.train.eval_every

    # All levels together tell near-twins apart better than the finest level alone.
    config.eval.level_rates = (1.0, 1.0, 1.0)

    config.train.batch_size = 64
    config.train.log_every = 20
    return config
