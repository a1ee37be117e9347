"""Your own videos: a folder of them and a table of captions, captions.csv or captions.jsonl (docs/data.md).

Command:  python -m hbi_jax.main --config=configs/own_videos.py --workdir=runs/own --config.init=FOLDER \
              --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of a converted or trained model (docs/pretrained.md)
          To evaluate that model on your videos without training: --mode=evaluate --checkpoint=FOLDER
Hardware: accelerators; not measured yet. To save memory: a smaller --config.train.batch_size, or
          --config.model.remat=blocks, which recomputes the activations of the towers
Expected: depends on your videos; compare with the row "before training" of the report
"""

import pathlib
import runpy


def get_config():
    """Returns configs/msrvtt.py with the splits named in the column `split` of the table."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("msrvtt.py")))["get_config"]()
    config.name = "HBI V2, own videos"

    config.data.dataset = "folder"
    config.data.val_list, config.data.num_val_videos = "val", 0
    # At one frame a second, clips of a few seconds would have few frames.
    config.data.frames_per_second = 2.0
    return config
