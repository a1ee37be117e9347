"""LSMDC, with the settings of CLIP4Clip on ViT-B/32.

Command:  python -m hbi_jax.main --config=configs/lsmdc.py --workdir=runs/lsmdc --config.init=FOLDER \
              --config.data.annotations=FOLDER --config.data.videos=FOLDER
          with the folder of CLIP's converted weights (docs/pretrained.md)
Hardware: accelerators; not measured yet. To save memory: a smaller --config.train.batch_size, or
          --config.model.remat=blocks, which recomputes the activations of the towers
Expected: no published result of HBI. CLIP4Clip has text-to-video R@1 21.6, R@5 41.8, R@10 49.8, MnR 58.0
"""

import pathlib
import runpy


def get_config():
    """Returns configs/msvd.py, whose settings are the same, on the clips of LSMDC."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("msvd.py")))["get_config"]()
    config.name = "HBI V2, LSMDC"

    config.data.dataset = "lsmdc"
    config.data.val_list = "LSMDC16_annos_val.csv"
    return config
