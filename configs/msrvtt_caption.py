"""MSR-VTT captioning with the settings of HBI V2's paper on ViT-B/32.

Command:  python -m hbi_jax.main --config=configs/msrvtt_caption.py --workdir=runs/msrvtt_caption \
              --config.init=FOLDER --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of CLIP's converted weights (docs/pretrained.md)
Hardware: accelerators; not measured yet. To save memory: --config.train.batch_size=32
Needs:    pip install ".[caption]" for the scores, and Java for METEOR
Expected: the paper's HBI V2 has BLEU-4 48.1, ROUGE-L 64.9, METEOR 31.4, CIDEr 59.1
"""

import pathlib
import runpy


def get_config():
    """Returns configs/msrvtt.py with the splits of the caption file and the paper's weights and rates."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("msrvtt.py")))["get_config"]()
    config.name = "HBI V2, MSR-VTT captioning"
    config.task = "captions"

    config.data.dataset = "msrvtt_caption"
    config.data.val_list, config.data.num_val_videos = "validate", 0

    config.loss.caption_weight = 3.3
    config.optimizer.learning_rate = 5e-4
    # CLIP is frozen; only the new modules are trained.
    config.optimizer.frozen = ("^params/(vision_tower|text_tower)",)

    config.train.batch_size = 64
    config.train.num_epochs = 50
    config.eval.best_metric = "CIDEr"
    return config
