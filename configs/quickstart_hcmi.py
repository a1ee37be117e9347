"""HCMI on the embedded data set of configs/quickstart.py, from the same towers, on two CPU cores.

Command:  python -m hbi_jax.main --config=configs/quickstart_hcmi.py --workdir=runs/quickstart_hcmi
          with --config.data.world.duplicate_share=0.2 every fifth training caption describes other videos as well
Hardware: two CPU cores, about three minutes, rendering included
Expected: one run had R@1 89 on the test videos, and chose the right one of four near-twins for 70 % of their captions;
          python -m hbi_jax.ablate --table=methods compares it with HBI in fewer steps (docs/hcmi.md)
"""

import pathlib
import runpy


def get_config():
    """Returns configs/quickstart.py with HCMI's model, losses and two views of every training video."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("quickstart.py")))["get_config"]()
    config.name = "HCMI"

    config.model.method = "hcmi"
    config.model.levels = (("frame", 0, 0), ("clip", 6, 2), ("video", 1, 1))
    config.model.frame_layers = 0
    config.model.frame_past = 0
    config.model.frame_positions = "absolute"
    config.model.end_tokens = "both"
    config.model.header = "none"

    config.loss.interaction_weight = config.loss.distillation_weight = config.loss.motion_weight = 0.0
    config.loss.denoising = True
    config.loss.margin_weight = 1.0

    # All 24 frames of a clip, in eight segments of three.
    config.data.sampling, config.data.num_views, config.data.frames_per_second = "segments", 2, 8.0

    config.eval.level_rates = (1 / 3, 1 / 3, 1 / 3)
    return config
