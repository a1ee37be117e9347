"""MSRVTT-QA as the first paper's code trains it (HBI, CVPR 2023), on ViT-B/16.

Command:  python -m hbi_jax.main --config=configs/msrvtt_qa_v1.py --workdir=runs/msrvtt_qa_v1 --config.init=FOLDER \
              --config.loss.estimator=FOLDER --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folders of CLIP's and the estimator's weights (docs/pretrained.md, configs/estimator_v1.py)
Hardware: accelerators; not measured yet. To save memory: a smaller --config.train.batch_size, or
          --config.model.remat=blocks, which recomputes the activations of the towers
Expected: the paper's HBI has an accuracy of 46.2 %. The published loader leaves out the questions (about 7 %) whose
          answer is not among the 1,500 of the vocabulary, so compare with the row "answer in the vocabulary"
"""

import pathlib
import runpy


def get_config():
    """Returns configs/msrvtt_v1.py with answer heads; answers are distilled instead of similarities."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("msrvtt_v1.py")))["get_config"]()
    config.name = "HBI V1, MSRVTT-QA"
    config.task = "answers"

    config.model.clip.patch_size = 16
    # Shares of 32 words and 12 frames, rounded up: a quarter, then an eighth of the words and a quarter of the frames.
    config.model.levels = (("entity", 0, 0), ("action", 8, 3), ("event", 1, 1))

    data = config.data
    data.dataset = "msrvtt_qa"
    data.val_list, data.protocol = "val.jsonl", "held_out"
    data.num_words = 32
    data.augmentation = "none"
    config.answers.vocabulary = "train_ans2label.json"

    config.loss.distil = "answers"
    config.loss.alignment_weight = 0.5
    config.loss.answer_weight = 1.0

    # In CLIP, only the residual blocks, the last norms, the projections and the temperature are trained.
    config.optimizer.frozen = (
        "^params/vision_tower/(patch_embedding|class_embedding|positional_embedding|ln_pre)",
        "^params/text_tower/(token_embedding|positional_embedding)",
    )

    config.train.batch_size = 32
    config.eval.level_rates = (0.4, 0.4, 0.2)
    config.eval.best_metric = "accuracy"
    return config
