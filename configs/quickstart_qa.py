"""Questions about the embedded data set, in a few minutes on two CPU cores.

Command:  python -m hbi_jax.main --config=configs/quickstart_qa.py --workdir=runs/quickstart_qa \
              --config.init=runs/quickstart
          with the work folder of configs/quickstart.py: from random weights it learns more slowly
          For what the questions alone give away: --config.answers.question_only=True
Hardware: two CPU cores
Expected: the whole run is not measured yet; 740 of its 1,150 steps answer about 50 % of the test questions right, the
          most frequent answers of the training questions 28 %
"""

import pathlib
import runpy


def get_config():
    """That of configs/quickstart.py, with questions for texts."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("quickstart.py")))["get_config"]()
    config.task = "answers"

    data = config.data
    data.dataset = "msrvtt_qa"
    data.val_list = "val.jsonl"
    data.galleries = {"test": "test.jsonl", "twins": "twins.jsonl"}

    config.eval.level_rates = (0.4, 0.4, 0.2)
    config.eval.best_metric = "accuracy"
    return config
