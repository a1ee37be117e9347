"""What tests/golden holds of published models: their parameters in our form, their input, what they computed.

Parameters are not stored: `golden/recipe.py` makes each from its published name, its shape and a seed.
"""

import dataclasses
import importlib.util
import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hbi_jax import pretrained
from hbi_jax.models.config import HBIConfig, Level
from hbi_jax.types import Batch

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
# The published names of the three levels' parts end in nothing, 0 and 1.
SUFFIX = {"entity": "", "action": "0", "event": "1"}
# Cluster counts by the goldens' shares of 24 words and 12 frames, rounded up.
LEVELS = {
    "hbi_tiny": (Level("entity"), Level("action", 6, 6), Level("event", 3, 2)),
    "hbi_qa_tiny": (Level("entity"), Level("action", 6, 3), Level("event", 1, 1)),
}


class Golden(NamedTuple):
    """What a golden file holds.

    Attributes:
      about: The settings, names and shapes.
      arrays: What the published code got and computed.
      weights: Its parameters, converted.
      config: Its configuration, with the published treatment of padding.
      batch: Its input.
    """

    about: dict
    arrays: dict[str, np.ndarray]
    weights: pretrained.Pretrained
    config: HBIConfig
    batch: Batch


def load(name: str) -> Golden:
    spec = importlib.util.spec_from_file_location("recipe", FOLDER / "recipe.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    about = json.loads((FOLDER / f"{name}.json").read_text())
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    weights = pretrained.from_state_dict(
        {name: recipe.parameter(name, tuple(shape), about["seed"]) for name, shape in about["state_dict"].items()}
    )
    rows = len(arrays["text_ids"])
    batch = Batch(
        token_ids=arrays["text_ids"],
        text_mask=arrays["text_mask"].astype(bool),
        frames=arrays["video"].transpose(0, 1, 3, 4, 2),
        frame_mask=arrays["video_mask"].astype(bool),
        video_index=np.arange(rows),
        record_index=np.arange(rows),
        example_mask=np.ones(rows, bool),
    )
    config = dataclasses.replace(weights.model.config, levels=LEVELS[name])
    assert config.padding == "published"
    return Golden(about, arrays, weights, config, jax.tree.map(jnp.asarray, batch))
