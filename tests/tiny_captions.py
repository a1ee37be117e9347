"""The quickstart's captions, tiny: a configuration, whose run `captioned` of conftest.py is."""

import pathlib

from hbi_jax.config import Config
from tests.tiny_run import tiny_config

STEPS = 4


def tiny_captions(world: pathlib.Path, **changes: object) -> Config:
    """On a rendered world, with some fields changed."""
    fields = {
        "task": "captions",
        "data.dataset": "msrvtt_caption",
        "data.val_list": "validate",
        "data.galleries": {"test": "test"},
        "captions.max_words": 10,
        "captions.num_beams": 2,
        "captions.vocabulary": "training",
        "captions.references_per_video": 2,
        "model.levels": (("entity", 0, 0),),
        "model.frame_layers": 0,
        "model.frame_positions": "absolute",
        "model.header": "mlp",
        "loss.interaction_weight": 0.0,
        "train.num_steps": STEPS,
        "train.eval_every": 2,
        "eval.level_rates": (1.0,),
        "eval.best_metric": "first_event/accuracy",
        "eval.num_pictures": 2,
    }
    return tiny_config(world, **{name.replace(".", "__"): value for name, value in (fields | changes).items()})
