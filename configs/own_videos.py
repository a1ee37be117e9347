"""Your own videos: a folder of them and a table of captions, captions.csv or captions.jsonl (docs/data.md).

Command:  python -m hbi_jax.main --config=configs/own_videos.py --workdir=runs/own --config.init=FOLDER \
              --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of a model that was converted or trained before (docs/pretrained.md)
          To measure that model on your videos without training: --mode=evaluate --checkpoint=FOLDER
Hardware: accelerators; not measured yet. Short of memory: --config.model.remat=blocks
Expected: depends on your videos; the row "before training" of the report is what to compare with
"""

import pathlib
import runpy


def get_config():
    """That of configs/msrvtt.py, with the splits that the table's column `split` names."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("msrvtt.py")))["get_config"]()
    config.name = "HBI V2, own videos"

    config.data.dataset = "folder"
    config.data.val_list, config.data.num_val_videos = "val", 0
    # Clips of a few seconds have few frames at one a second.
    config.data.frames_per_second = 2.0
    return config
