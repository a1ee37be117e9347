"""Questions about the embedded data set, from towers that know single pictures, on two CPU cores.

Command:  python -m hbi_jax.main --config=configs/quickstart_qa.py --workdir=runs/quickstart_qa
          From nothing: --config=configs/quickstart_qa.py:scratch
          To see how far the questions alone lead: --config.answers.question_only=True
Hardware: two CPU cores, about three minutes, rendering included
Expected: 76 % of the test questions right (one seed); a model trained without seeing a video had 28 %. By type: where
          79, what 76, how many 91, which 77, order 48
"""

import pathlib
import runpy


def get_config(start: str = "shapes-clip"):
    """Returns configs/quickstart.py with questions as texts."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("quickstart.py")))["get_config"](start)
    config.task = "answers"

    data = config.data
    data.dataset = "msrvtt_qa"
    data.val_list = "val.jsonl"
    data.galleries = {"test": "test.jsonl", "twins": "twins.jsonl"}

    # Question answering needs more videos than retrieval, and several questions per video.
    data.world.num_train = 8000
    data.captions_per_video = "one"
    data.num_words = 16
    config.answers.questions_per_video = 4
    # Other players than all tokens were measured for retrieval only.
    config.model.end_tokens = "both"
    config.loss.alignment_weight = 0.25
    config.train.num_steps = 500
    config.train.eval_every = 100

    config.eval.level_rates = (0.4, 0.4, 0.2)
    config.eval.best_metric = "accuracy"
    return config
