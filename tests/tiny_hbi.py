"""A tiny HBI and batches for it, shared by the tests of models, trainer and devices."""

import zlib

import flax.linen as nn
import jax
import numpy as np

from hbi_jax.models.config import CLIPConfig, HBIConfig, Level
from hbi_jax.parallel.mesh import path_name
from hbi_jax.types import Batch

WORDS, FRAMES, SIDE = 8, 5, 16
END = 63  # the largest token id: end of text

CLIP = CLIPConfig(
    image_size=SIDE,
    patch_size=8,
    vision_width=32,
    vision_layers=1,
    text_width=32,
    text_layers=1,
    embed_features=32,
    head_features=16,
    vocab_size=64,
    context_length=12,
)
CONFIG = HBIConfig(
    clip=CLIP,
    levels=(Level("entity"), Level("action", 4, 3)),
    frame_layers=1,
    max_frames=8,
    weight_features=16,
    merge_heads=2,
    header_features=4,
)


def random_params(module: nn.Module, *inputs, **options) -> dict:
    """Parameters of order one, made by numpy: compiling an initialisation takes longer than most tests.

    Every leaf is random, biases and norms too, so that none of them can be left out unnoticed.
    """
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **options))

    def leaf(path, shape):
        name = path_name(path)
        z = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape.shape)
        if name.endswith("logit_scale"):
            return np.full(shape.shape, np.log(1 / 0.07), np.float32)
        if name.endswith("/scale"):
            return (1 + 0.1 * z).astype(np.float32)
        if name.endswith("/bias"):
            return (0.1 * z).astype(np.float32)
        fan_in = 1 if "embedding" in name and "patch" not in name else max(1, int(np.prod(shape.shape[:-1])))
        return (z / np.sqrt(fan_in)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def make_batch(rows: int, seed: int = 0, words: int = WORDS, frames: int = FRAMES) -> Batch:
    """Random texts, each of its own video. The first row is full; the fourth has fewer tokens than clusters."""
    rng = np.random.default_rng(seed)
    num_words = np.minimum(words, np.resize([words, 5, 6, 3], rows))
    num_frames = np.minimum(frames, np.resize([frames, 3, 4, 2], rows))
    text_mask = np.arange(words) < num_words[:, None]
    frame_mask = np.arange(frames) < num_frames[:, None]
    token_ids = rng.integers(1, END, (rows, words))
    token_ids[np.arange(rows), num_words - 1] = END
    pixels = rng.integers(0, 256, (rows, frames, SIDE, SIDE, 3))
    return Batch(
        token_ids=np.where(text_mask, token_ids, 0).astype(np.int32),
        text_mask=text_mask,
        frames=np.where(frame_mask[..., None, None, None], pixels, 0).astype(np.uint8),
        frame_mask=frame_mask,
        video_index=np.arange(rows, dtype=np.int32),
        record_index=np.arange(rows, dtype=np.int32),
        example_mask=np.ones(rows, bool),
    )
