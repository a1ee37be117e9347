"""Captions of the embedded data set, on two CPU cores.

Command:  python -m hbi_jax.main --config=configs/quickstart_caption.py --workdir=runs/quickstart_caption
          After configs/quickstart.py, whose frames know actions: --config.init=runs/quickstart
          From nothing: --config=configs/quickstart_caption.py:scratch
Hardware: two CPU cores, about four minutes, rendering included
Expected: the right first event (colour, shape and action) in 88 % of the captions of test videos; CIDEr 318 %, that of
          a reference caption 298 % (one seed)
"""

import pathlib
import runpy


def get_config(start: str = "shapes-clip"):
    """Returns configs/quickstart.py with a caption decoder; all paraphrases of a test video are its references."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("quickstart.py")))["get_config"](start)
    config.task = "captions"

    data = config.data
    data.dataset = "msrvtt_caption"
    data.val_list = "validate"
    data.galleries = {"test": "test", "twins": "twins"}
    config.captions.max_words = data.num_words
    config.captions.vocabulary = "training"
    config.captions.references_per_video = 3
    config.captions.dropout_rate = 0.0

    # The decoder reads the frames of the first level, which are to show the whole video.
    config.model.frame_past = 0
    # A caption must name shapes and actions without candidates to choose from. This takes many different videos, so
    # there are no near-twins. Only the frames matter, so the text tower and the alignment are not trained.
    data.world.num_train, data.world.near_twin_share = 8000, 0.0
    data.captions_per_video = "one"
    data.cache_gib = 1.25
    config.loss.alignment_weight = 0.0
    config.optimizer.frozen = ("text_tower", *config.optimizer.frozen)
    config.train.num_steps = 1500
    config.train.eval_every = 500
    config.train.checkpoint_every = 500

    config.eval.best_metric = "first_event/accuracy"
    return config
