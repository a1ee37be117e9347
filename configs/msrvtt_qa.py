"""MSRVTT-QA with the settings of HBI V2's paper on ViT-B/32.

Command:  python -m hbi_jax.main --config=configs/msrvtt_qa.py --workdir=runs/msrvtt_qa --config.init=FOLDER \
              --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of CLIP's weights (docs/pretrained.md)
Hardware: accelerators; not measured yet. To save memory: a smaller --config.train.batch_size, or
          --config.model.remat=blocks, which recomputes the activations of the towers
Expected: the paper's HBI V2 has an accuracy of 46.4 %
"""

import pathlib
import runpy


def get_config():
    """Returns configs/msrvtt.py with questions as texts and the paper's weights, rates and batch size."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("msrvtt.py")))["get_config"]()
    config.name = "HBI V2, MSRVTT-QA"
    config.task = "answers"

    data = config.data
    data.dataset = "msrvtt_qa"
    data.val_list, data.num_val_videos = "val.jsonl", 0
    config.answers.vocabulary = "train_ans2label.json"

    config.loss.interaction_weight = 2.0
    config.loss.distillation_weight = 1.0
    config.loss.answer_weight = 2.5

    config.train.batch_size = 32
    config.eval.level_rates = (0.4, 0.4, 0.2)
    config.eval.best_metric = "accuracy"
    return config
