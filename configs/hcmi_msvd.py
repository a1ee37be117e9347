"""MSVD, every caption a query, with HCMI (Tencent Text-Video Retrieval).

Command:  python -m hbi_jax.main --config=configs/hcmi_msvd.py --workdir=runs/hcmi_msvd --config.init=FOLDER \
              --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of CLIP's converted weights (docs/pretrained.md)
Hardware: accelerators; not measured yet. To save memory: a smaller --config.train.batch_size, or
          --config.model.remat=blocks, which recomputes the activations of the towers
Expected: the paper has text-to-video R@1 58.2, as a survey says with dual
          softmax; configs/hcmi_msrvtt.py says how far its settings are known
"""

import pathlib
import runpy


def get_config():
    """Returns configs/hcmi_msrvtt.py on MSVD, with its validation list."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("hcmi_msrvtt.py")))["get_config"]()
    config.name = "HCMI, MSVD"

    config.data.dataset = "msvd"
    config.data.val_list, config.data.num_val_videos = "val_list.txt", 0
    return config
