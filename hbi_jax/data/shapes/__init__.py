"""Moving shapes: a rendered world of short videos with captions, questions and complete ground truth.

    from hbi_jax.data import shapes
    shapes.generate("world")                     # mp4 files and annotations in MSR-VTT's layout
    truth = shapes.load_ground_truth("world")    # the frames and the box that each word refers to

docs/shapes.md describes the world and its files. This package does not import JAX.
"""

from hbi_jax.data.shapes.config import ShapesError, WorldConfig
from hbi_jax.data.shapes.contact_sheet import preview
from hbi_jax.data.shapes.entities import ACTIONS, COLORS, SHAPES, SIZES, Entity, Event
from hbi_jax.data.shapes.exports import export
from hbi_jax.data.shapes.generator import Summary, generate
from hbi_jax.data.shapes.grammar import Word, canonical_sentence, parse_caption
from hbi_jax.data.shapes.truth import GroundTruth, load_ground_truth, number_scenes

__all__ = [
    "ACTIONS",
    "COLORS",
    "SHAPES",
    "SIZES",
    "Entity",
    "Event",
    "GroundTruth",
    "ShapesError",
    "Summary",
    "Word",
    "WorldConfig",
    "canonical_sentence",
    "export",
    "generate",
    "load_ground_truth",
    "number_scenes",
    "parse_caption",
    "preview",
]
