"""The mapping from foreign names to ours: one table per source, and the conversions between array layouts.

Our names are paths in a model's parameters. The rows of a layer are written once and repeated for each layer.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """A bijection between one of our arrays and one or three foreign arrays."""

    to_ours: Callable[..., np.ndarray]
    to_theirs: Callable[[np.ndarray], tuple[np.ndarray, ...]]


class Row(NamedTuple):
    """One of our parameters and its foreign counterpart."""

    ours: str
    theirs: tuple[str, ...]
    layout: Layout


def _permutation(*axes: int) -> Layout:
    inverse = tuple(np.argsort(axes))
    return Layout(lambda x: x.transpose(axes), lambda x: (x.transpose(inverse),))


def _patches_to_theirs(x: np.ndarray) -> tuple[np.ndarray]:
    side = math.isqrt(x.shape[0] // 3)
    return (x.reshape(side, side, 3, -1).transpose(3, 2, 0, 1),)


_SAME = Layout(lambda x: x, lambda x: (x,))
# Some sources store a scalar as an array with one element.
_NUMBER = Layout(lambda x: x.reshape(()), lambda x: (x,))
_LINEAR = _permutation(1, 0)
_CONV_1D = _permutation(2, 1, 0)
_CONV_2D = _permutation(2, 3, 1, 0)
# Our patch embedding is a matrix product with flattened patches, not a convolution.
_PATCHES = Layout(lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]), _patches_to_theirs)
# Our projection for queries, keys and values is one matrix.
_FUSED_KERNEL = Layout(
    lambda *x: np.concatenate([part.transpose(1, 0) for part in x], axis=1),
    lambda x: tuple(part.transpose(1, 0) for part in np.split(x, 3, axis=1)),
)
_FUSED_BIAS = Layout(lambda *x: np.concatenate(x), lambda x: tuple(np.split(x, 3)))


def _row(ours: str, *theirs: str, layout: Layout = _SAME) -> Row:
    return Row(ours, theirs, layout)


def _linear(ours: str, theirs: str) -> list[Row]:
    return [_row(f"{ours}/kernel", f"{theirs}.weight", layout=_LINEAR), _row(f"{ours}/bias", f"{theirs}.bias")]


def _norm(ours: str, theirs: str) -> list[Row]:
    return [_row(f"{ours}/scale", f"{theirs}.weight"), _row(f"{ours}/bias", f"{theirs}.bias")]


def _under(ours: str, theirs: str, rows: Iterable[Row]) -> list[Row]:
    """Returns the rows with prefixes added to our and to foreign names."""
    return [Row(ours + row.ours, tuple(theirs + name for name in row.theirs), row.layout) for row in rows]


_OPENAI_BLOCK = [
    *_norm("ln_1", "ln_1"),
    *_norm("ln_2", "ln_2"),
    _row("attn/in_proj/kernel", "attn.in_proj_weight", layout=_LINEAR),
    _row("attn/in_proj/bias", "attn.in_proj_bias"),
    *_linear("attn/out_proj", "attn.out_proj"),
    *_linear("mlp_fc", "mlp.c_fc"),
    *_linear("mlp_proj", "mlp.c_proj"),
]
_OPENAI = [
    _row("text_tower/token_embedding/embedding", "token_embedding.weight"),
    _row("text_tower/positional_embedding", "positional_embedding"),
    *_norm("text_tower/ln_final", "ln_final"),
    _row("text_tower/text_projection/kernel", "text_projection"),
    _row("vision_tower/patch_embedding/kernel", "visual.conv1.weight", layout=_PATCHES),
    _row("vision_tower/class_embedding", "visual.class_embedding"),
    _row("vision_tower/positional_embedding", "visual.positional_embedding"),
    *_norm("vision_tower/ln_pre", "visual.ln_pre"),
    *_norm("vision_tower/ln_post", "visual.ln_post"),
    _row("vision_tower/proj/kernel", "visual.proj"),
    _row("logit_scale", "logit_scale", layout=_NUMBER),
]

_HF_BLOCK = [
    *_norm("ln_1", "layer_norm1"),
    *_norm("ln_2", "layer_norm2"),
    _row("attn/in_proj/kernel", *(f"self_attn.{part}_proj.weight" for part in "qkv"), layout=_FUSED_KERNEL),
    _row("attn/in_proj/bias", *(f"self_attn.{part}_proj.bias" for part in "qkv"), layout=_FUSED_BIAS),
    *_linear("attn/out_proj", "self_attn.out_proj"),
    *_linear("mlp_fc", "mlp.fc1"),
    *_linear("mlp_proj", "mlp.fc2"),
]
_HF = [
    _row("text_tower/token_embedding/embedding", "text_model.embeddings.token_embedding.weight"),
    _row("text_tower/positional_embedding", "text_model.embeddings.position_embedding.weight"),
    *_norm("text_tower/ln_final", "text_model.final_layer_norm"),
    _row("text_tower/text_projection/kernel", "text_projection.weight", layout=_LINEAR),
    _row("vision_tower/patch_embedding/kernel", "vision_model.embeddings.patch_embedding.weight", layout=_PATCHES),
    _row("vision_tower/class_embedding", "vision_model.embeddings.class_embedding"),
    _row("vision_tower/positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    *_norm("vision_tower/ln_pre", "vision_model.pre_layrnorm"),
    *_norm("vision_tower/ln_post", "vision_model.post_layernorm"),
    _row("vision_tower/proj/kernel", "visual_projection.weight", layout=_LINEAR),
    _row("logit_scale", "logit_scale", layout=_NUMBER),
]

_MERGE = [  # {s}: t or v; {n}: the merge's suffix
    _row("conv/kernel", "{s}_ctm{n}.conv.conv.weight", layout=_CONV_1D),
    *_norm("norm", "{s}_ctm{n}.norm"),
    *_linear("score", "{s}_ctm{n}.score"),
    *_norm("attention_norm", "{s}_block{n}.norm1"),
    *_linear("attention/q", "{s}_block{n}.attn.q"),
    *_linear("attention/kv", "{s}_block{n}.attn.kv"),
    *_linear("attention/proj", "{s}_block{n}.attn.proj"),
]
_WEIGHT = [*_linear("hidden", "0"), *_linear("logit", "2")]
_ANSWER = [  # {n}: the level's suffix
    *_under("video_weight/", "v_weight{n}.", _WEIGHT),
    *_under("text_weight/", "t_weight{n}.", _WEIGHT),
    *_linear("video_proj", "v_proj{n}"),
    *_linear("text_proj", "t_proj{n}"),
    *_linear("hidden", "classifier{n}.0"),
    *_linear("logits", "classifier{n}.2"),
]
_NET = [
    _row("conv_in/kernel", "cnn1.weight", layout=_CONV_2D),
    _row("conv_in/bias", "cnn1.bias"),
    _row("conv_out/kernel", "cnn2.weight", layout=_CONV_2D),
    _row("conv_out/bias", "cnn2.bias"),
]
_NET_ATTENTION = [_row(f"{ours}/kernel", theirs) for ours, theirs in (("query", "Q"), ("key", "K"), ("value", "V"))]

# The networks' batch normalisation, which published files contain but no model uses. For each name, a function from the
# number of features to the identity value, for weights that have no such entry.
BATCH_NORM: dict[str, Callable[[int], np.ndarray]] = {
    "bn.weight": lambda n: np.ones(n, np.float32),
    "bn.bias": lambda n: np.zeros(n, np.float32),
    "bn.running_mean": lambda n: np.zeros(n, np.float32),
    "bn.running_var": lambda n: np.ones(n, np.float32),
    "bn.num_batches_tracked": lambda n: np.zeros((), np.int64),
}
# Entries of other sources that are not weights.
HF_BUFFERS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
OPENAI_BUFFERS = ("input_resolution", "context_length", "vocab_size")
# Found in state dicts of old versions of open_clip.
OPEN_CLIP_BUFFERS = ("attn_mask",)
# TorchScript archives also contain the causal mask of each layer, which is not a parameter.
OPENAI_LAYER_BUFFER = "transformer.resblocks.{}.attn_mask"

TEACHER = "banzhafteacher."


def count_layers(names: Iterable[str], prefix: str) -> int:
    """Returns the number of layers with names of the form `PREFIX0...`, `PREFIX1...` and so on."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)[./]")
    return len({found[1] for found in map(pattern.match, names) if found})


def _stack(ours: str, theirs: str, num_layers: int, block: Iterable[Row]) -> list[Row]:
    layers = (_under(f"{ours}/resblocks_{n}/", f"{theirs}.{n}.", block) for n in range(num_layers))
    return [row for layer in layers for row in layer]


def openai_clip(text_layers: int, vision_layers: int) -> list[Row]:
    """Returns the rows of CLIP's towers under OpenAI's names."""
    return [
        *_OPENAI,
        *_stack("text_tower/transformer", "transformer.resblocks", text_layers, _OPENAI_BLOCK),
        *_stack("vision_tower/transformer", "visual.transformer.resblocks", vision_layers, _OPENAI_BLOCK),
    ]


def hf_clip(text_layers: int, vision_layers: int) -> list[Row]:
    """Returns the rows of CLIP's towers under Hugging Face's names."""
    return [
        *_HF,
        *_stack("text_tower/transformer", "text_model.encoder.layers", text_layers, _HF_BLOCK),
        *_stack("vision_tower/transformer", "vision_model.encoder.layers", vision_layers, _HF_BLOCK),
    ]


def interaction_net(attention: bool, prefix: str = "") -> list[Row]:
    """Returns the rows of an estimator or prediction header, with or without attention, under a foreign prefix."""
    return _under("", prefix, [*_NET, *_NET_ATTENTION] if attention else _NET)


def level_suffixes(count: int) -> list[str]:
    """Returns the suffixes of the levels in published names: empty, then 0, 1, ..."""
    return ["", *map(str, range(count - 1))]


def headers(num_levels: int) -> list[str]:
    """Returns the prefixes of the levels' prediction headers in published names."""
    return [f"banzhafmodel{suffix}." for suffix in level_suffixes(num_levels)]


def published_hbi(
    levels: Sequence[Sequence],
    text_layers: int,
    vision_layers: int,
    frame_layers: int,
    header: Sequence[Row],
    answers: bool,
) -> list[Row]:
    """Returns the rows of a published HBI model.

    Args:
      levels: Name, words and frames of each level, from fine to coarse; 0 means no merge.
      text_layers, vision_layers, frame_layers: Number of layers of the three transformers.
      header: The rows of one prediction header.
      answers: Whether the model has answer heads.
    """
    rows = [
        *_under("", "clip.", openai_clip(text_layers, vision_layers)),
        _row("frame_transformer/positional_embedding", "frame_position_embeddings.weight"),
        *_stack("frame_transformer/transformer", "transformerClip.resblocks", frame_layers, _OPENAI_BLOCK),
    ]
    for (level, *counts), suffix in zip(levels, level_suffixes(len(levels)), strict=True):
        for side, letter, count in zip(("text", "video"), "tv", counts, strict=True):
            rows += _under(f"{side}_weight_{level}/", f"{side}_weight_fc{suffix}.", _WEIGHT)
            if count:
                rows += _under(f"{side}_merge_{level}/", "", _format(_MERGE, s=letter, n=suffix))
        rows += _under(f"header_{level}/", f"banzhafmodel{suffix}.", header)
        if answers:
            rows += _under(f"answer_{level}/", "", _format(_ANSWER, n=suffix))
    return rows


def _format(rows: Iterable[Row], **fields: str) -> list[Row]:
    return [Row(row.ours, tuple(name.format(**fields) for name in row.theirs), row.layout) for row in rows]
