"""The quickstart, tiny: its configuration and a run of it, shared by the tests of whole runs."""

import pathlib

import jax
from jax.sharding import Mesh

from configs.quickstart import get_config
from hbi_jax import experiment
from hbi_jax.config import Config, parse
from hbi_jax.parallel.mesh import make_mesh

NUM_STEPS = 6
TINY = {
    "init": "",
    "data.cache_features": False,
    "optimizer.frozen": (),
    "model.clip.vision_width": 32,
    "model.clip.vision_layers": 1,
    "model.clip.text_width": 32,
    "model.clip.text_layers": 1,
    "model.clip.embed_features": 32,
    "model.clip.head_features": 16,
    "model.clip.image_size": 32,
    "model.frame_layers": 1,
    "model.frame_past": 0,
    "model.weight_features": 16,
    "model.header_features": 4,
    "data.world.num_train": 40,
    "data.world.num_val": 8,
    "data.world.num_test": 8,
    "data.world.num_twin_groups": 2,
    "data.frames_per_second": 2.0,
    "data.num_frames": 6,
    "model.merge_heads": 2,
    "data.max_unreadable_rate": 0.1,
    # The library's default: after so few steps of Muon the answers did not depend on the video.
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1e-3,
    "optimizer.clip_learning_rate": 1e-3,
    "train.batch_size": 8,
    "train.num_steps": NUM_STEPS,
    "train.log_every": 2,
    "train.eval_every": 3,
    "train.checkpoint_every": 2,
    "eval.batch_size": 8,
    "eval.num_pictures": 0,
    "eval.patch_texts": 0,
}

# The smallest model there is: what runs in a process of its own compiles it, and finds it compiled by another.
SMALLEST = TINY | {
    "model.levels": (("entity", 0, 0),),
    "model.frame_layers": 0,
    "model.frame_positions": "absolute",
    "model.header": "mlp",
    "loss.interaction_weight": 0.0,
    "loss.motion_weight": 0.0,
    "eval.level_rates": (1.0,),
}


def tiny_mesh(data: int = -1, model: int = 1, slices: int = 1) -> Mesh:
    """Two of the eight devices, for whole runs: they shard what eight do, in programs that compile sooner."""
    return make_mesh(data, model, jax.devices()[:2], slices)


def tiny_config(world: pathlib.Path, **changes: object) -> Config:
    """On a rendered world, with some fields changed; `__` stands for the dot between section and field."""
    config = get_config()
    config.data.annotations, config.data.videos = str(world), str(world / "videos")
    for field, value in (TINY | {name.replace("__", "."): value for name, value in changes.items()}).items():
        *sections, name = field.split(".")
        section = config
        for part in sections:
            section = section[part]
        section[name] = value
    return parse(config)


def run(config: Config, workdir: pathlib.Path) -> None:
    """Trains, evaluates, reports."""
    setup = experiment.prepare(config, str(workdir))
    experiment.train(setup)
    experiment.evaluate(setup)
