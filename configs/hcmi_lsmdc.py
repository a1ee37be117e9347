"""LSMDC, with HCMI (Tencent Text-Video Retrieval).

Command:  python -m hbi_jax.main --config=configs/hcmi_lsmdc.py --workdir=runs/hcmi_lsmdc --config.init=FOLDER \
              --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of CLIP's converted weights (docs/pretrained.md)
Hardware: accelerators; not measured yet. To save memory: a smaller --config.train.batch_size, or
          --config.model.remat=blocks, which recomputes the activations of the towers
Expected: the paper has text-to-video R@1 29.7, R@5 46.4, R@10 55.4, as a survey says with dual
          softmax; configs/hcmi_msrvtt.py says how far its settings are known
"""

import pathlib
import runpy


def get_config():
    """Returns configs/hcmi_msrvtt.py on the clips of LSMDC."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("hcmi_msrvtt.py")))["get_config"]()
    config.name = "HCMI, LSMDC"

    config.data.dataset = "lsmdc"
    # The clips last four seconds; their grid needs more frames than there are segments.
    config.data.frames_per_second = 6.0
    config.data.val_list, config.data.num_val_videos = "LSMDC16_annos_val.csv", 0
    return config
