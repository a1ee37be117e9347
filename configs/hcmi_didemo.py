"""DiDeMo, paragraph to video, with HCMI (Tencent Text-Video Retrieval).

Command:  python -m hbi_jax.main --config=configs/hcmi_didemo.py --workdir=runs/hcmi_didemo --config.init=FOLDER \
              --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of CLIP's converted weights (docs/pretrained.md)
Hardware: accelerators; not measured yet. To save memory: a smaller --config.train.batch_size, or
          --config.model.remat=blocks, which recomputes the activations of the towers
Expected: the paper has text-to-video R@1 52.1, R@5 78.2, R@10 85.7, as a survey says with dual
          softmax; configs/hcmi_msrvtt.py says how far its settings are known
"""

import pathlib
import runpy


def get_config():
    """Returns configs/hcmi_msrvtt.py with longer texts and videos."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("hcmi_msrvtt.py")))["get_config"]()
    config.name = "HCMI, DiDeMo"

    config.data.dataset = "didemo"
    config.data.num_words, config.data.num_frames = 64, 64
    # Videos of up to half a minute; their grid needs more frames than there are segments.
    config.data.frames_per_second = 6.0
    config.data.val_list, config.data.num_val_videos = "val_list.txt", 0
    config.model.levels = (("frame", 0, 0), ("clip", 16, 16), ("video", 1, 1))
    return config
