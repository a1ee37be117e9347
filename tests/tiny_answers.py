"""The quickstart's questions, tiny: a configuration, whose run `answered` of conftest.py is."""

import pathlib

from hbi_jax.config import Config
from tests.tiny_run import tiny_config

STEPS, TOP = 4, 12
RATES = (0.25, 0.75)


def tiny_answers(world: pathlib.Path, **changes: object) -> Config:
    """On a rendered world, with some fields changed."""
    fields = {
        "task": "answers",
        "data.dataset": "msrvtt_qa",
        "data.val_list": "val.jsonl",
        "data.galleries": {"test": "test.jsonl"},
        "answers.top_answers": TOP,
        "model.levels": (("entity", 0, 0), ("action", 8, 3)),
        "model.frame_layers": 0,
        "model.frame_positions": "absolute",
        "model.header": "mlp",
        "loss.interaction_weight": 0.0,
        "train.num_steps": STEPS,
        "train.eval_every": 2,
        "eval.level_rates": RATES,
        "eval.best_metric": "accuracy",
        "eval.num_pictures": 3,
    }
    return tiny_config(world, **{name.replace(".", "__"): value for name, value in (fields | changes).items()})
