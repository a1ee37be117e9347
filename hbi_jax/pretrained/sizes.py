"""Derives a model's configuration from the shapes of its parameters, and builds a model from its configuration."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import PyTree

from hbi_jax import fields
from hbi_jax.banzhaf.estimator import InteractionNet
from hbi_jax.choices import InteractionNetKind
from hbi_jax.models.answer import AnswerHBI
from hbi_jax.models.caption import CaptionHBI
from hbi_jax.models.clip import CLIP
from hbi_jax.models.config import CLIPConfig, HBIConfig, Level, of_earlier_versions
from hbi_jax.models.hbi import HBI
from hbi_jax.models.hcmi import HCMI
from hbi_jax.pretrained.errors import PretrainedError, listed, naming
from hbi_jax.pretrained.names import ACTIVATIONS, KINDS, NORMALIZATIONS, TOKENS
from hbi_jax.pretrained.settings import UNTOLD, settings_of
from hbi_jax.pretrained.tables import count_layers
from hbi_jax.types import Batch

Shapes = Mapping[str, tuple[int, ...]]

# The modules of the kinds that have levels, and their fields that are not in `config.model`.
_MODULES = {
    "hbi": (HBI, ()),
    "hcmi": (HCMI, ()),
    "answer": (AnswerHBI, ("num_answers", "dropout_rate")),
    "caption": (CaptionHBI, ("decoder_layers", "dropout_rate")),
}
TASK_FIELDS = frozenset(name for _, names in _MODULES.values() for name in names)
# Number of heads of a published token merge; shapes do not reveal it.
MERGE_HEADS = 8

# Published architectures: the values of SIZE_FIELDS, which are fields of `CLIPConfig`.
SIZE_FIELDS = (
    "image_size",
    "patch_size",
    "vision_width",
    "vision_layers",
    "text_width",
    "text_layers",
    "embed_features",
)
ARCHITECTURES = {
    "ViT-B/32": (224, 32, 768, 12, 512, 12, 512),
    "ViT-B/16": (224, 16, 768, 12, 512, 12, 512),
    "ViT-L/14": (224, 14, 1024, 24, 768, 12, 768),
    "ViT-L/14@336px": (336, 14, 1024, 24, 768, 12, 768),
    "ViT-H/14": (224, 14, 1280, 32, 1024, 24, 1024),
    "ViT-H/14@378px": (378, 14, 1280, 32, 1024, 24, 1024),
    "ViT-g/14": (224, 14, 1408, 40, 1024, 24, 1024),
    "ViT-bigG/14": (224, 14, 1664, 48, 1280, 32, 1280),
}
# Shares of the previous level's words and frames that remain after a merge in the published models.
_RATES = {
    "hbi": {"action": (0.25, 0.25), "event": (0.5, 0.5)},
    "answer": {"action": (0.25, 0.25), "event": (0.125, 0.25)},
}


def kind_of(paths: Sequence[str]) -> str:
    """Returns the kind of the model whose parameters have these paths.

    Raises:
      PretrainedError: If no model of this library has such parameters.
    """
    starts = {path.split("/")[0] for path in paths}
    if "conv_in" in starts:
        return "estimator"
    if {"text_tower", "vision_tower"} <= starts:
        if any(start.startswith("answer_") for start in starts):
            return "answer"
        if any(path.endswith("/queries") for path in paths):
            return "hcmi"
        return "caption" if "caption" in starts else "hbi" if "frame_transformer" in starts else "clip"
    raise PretrainedError(f"parameters {', '.join(sorted(starts)[:8])} are of no model of this library")


def model_config(kind: str, shapes: Shapes, first_level: str = "", untold: Mapping[str, Any] | None = None) -> dict:
    """Returns the configuration that the shapes of parameters imply; levels and `settings.UNTOLD` are not implied.

    Args:
      kind: One of `KINDS`.
      shapes: The shapes of the parameters by path.
      first_level: The name of a level.
      untold: Values of the fields of `settings.UNTOLD`; omitted fields get the defaults.

    Raises:
      PretrainedError: If a model of this kind cannot have these shapes.
    """
    if kind == "estimator":
        return _net(shapes, "", "kind", "num_features")
    clip = _clip(shapes, untold or {})
    if kind == "clip":
        return clip
    config = {
        "clip": clip,
        "frame_layers": count_layers(shapes, "frame_transformer/transformer/resblocks_"),
        **_frame_positions(shapes),
        "weight_features": _hidden_width(shapes, f"text_weight_{first_level}"),
        **_net(shapes, f"header_{first_level}/", "header", "header_features"),
    }
    if kind == "hcmi":
        config["method"] = "hcmi"
        # A level of one token has no weights.
        if not config["weight_features"]:
            del config["weight_features"]
    if gate := _hidden_width(shapes, f"text_gate_{first_level}"):
        config |= {"reconstruction": True, "gate_features": gate}
    if kind == "answer":
        config["num_answers"] = _axes(shapes, f"answer_{first_level}/logits/kernel", 2)[1]
    if kind == "caption":
        config["decoder_layers"] = count_layers(shapes, "caption/resblocks_")
    return config


def _frame_positions(shapes: Shapes) -> dict[str, Any]:
    """Returns the fields on the positions of frames."""
    bias = "frame_transformer/relative_bias"
    if bias in shapes:
        return {"max_frames": (_axes(shapes, bias, 2)[1] + 1) // 2, "frame_positions": "relative"}
    return {"max_frames": _axes(shapes, "frame_transformer/positional_embedding", 2)[0]}


def _hidden_width(shapes: Shapes, mlp: str) -> int:
    """Returns the hidden width of a token MLP; 0 if it has no parameters."""
    kernel = f"{mlp}/hidden/kernel"
    return _axes(shapes, kernel, 2)[1] if kernel in shapes else 0


def published_levels(kind: str, num_words: int | None, num_frames: int | None) -> list[list]:
    """Returns the levels of a published model: name, words and frames, computed from its merge rates.

    Args:
      kind: One of `TOKENS`.
      num_words, num_frames: Number of tokens per text (including start and end) and of frames per video; None means
        the published numbers.
    """
    words, frames = (given or default for given, default in zip((num_words, num_frames), TOKENS[kind], strict=True))
    levels = [["entity", 0, 0]]
    for name, (word_rate, frame_rate) in _RATES[kind].items():
        words, frames = math.ceil(word_rate * words), math.ceil(frame_rate * frames)
        levels.append([name, words, frames])
    return levels


def build_model(kind: str, config: Mapping) -> nn.Module:
    """Builds the module of a configuration: the fields of `config.model`, or of `config.estimator` for an estimator.

    Raises:
      PretrainedError: If the kind is unknown, or a field is missing, unknown or invalid.
    """
    if kind not in KINDS:
        raise PretrainedError(f"weights of kind {kind!r}: wanted one of {', '.join(KINDS)}; convert them again")
    try:
        if kind == "estimator":
            net, width = config["kind"], config["num_features"]
            wanted = f"one of {', '.join(get_args(InteractionNetKind))}"
            fields.require(net in get_args(InteractionNetKind), "config.kind", net, wanted, "choose one of them")
            good = type(width) is int and width > 0
            fields.require(good, "config.num_features", width, "a positive number", "correct it")
            return InteractionNet(net, width)
        if kind == "clip":
            return CLIP(fields.parse(CLIPConfig, config, "config"))
        module, names = _MODULES[kind]
        task_fields = {name: config[name] for name in names if name in config}
        values = {name: value for name, value in config.items() if name not in names}
        # No defaults for these: weights belong to specific towers and levels.
        values |= {name: config[name] for name in ("clip", "levels")}
        if kind == "hcmi":
            values["method"] = kind
        parsed = fields.parse(HBIConfig, of_earlier_versions(values), "config")
        fields.check(parsed, "config")
        return module(parsed, **task_fields)
    except (KeyError, TypeError, ValueError) as error:
        raise PretrainedError(
            f"the configuration of these {KINDS[kind]} weights is not one ({type(error).__name__}: {error}); "
            "convert them again, or correct their config.json"
        ) from error


def abstract_params(kind: str, config: Mapping) -> dict:
    """Returns shapes and types of a model's variables without computing them.

    Raises:
      PretrainedError: If the configuration is invalid.
    """
    model = build_model(kind, config)
    try:
        return jax.eval_shape(functools.partial(model.init, jax.random.key(0)), *_inputs(kind, model))
    except (ValueError, TypeError, ZeroDivisionError, flax.errors.FlaxError) as error:
        raise PretrainedError(
            f"no {KINDS[kind]} can be built with the configuration of these weights: {error}; correct it"
        ) from error


def _inputs(kind: str, model: nn.Module) -> tuple:
    """Returns shapes and types of a model's longest possible inputs."""

    def zeros(*shape: int, dtype: jax.typing.DTypeLike) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *shape), dtype)

    if kind == "estimator":
        return (zeros(1, 1, dtype=jnp.float32),)
    clip: CLIPConfig = model.config if kind == "clip" else model.config.clip
    side = clip.image_size
    text = zeros(clip.context_length, dtype=jnp.int32), zeros(clip.context_length, dtype=bool)
    if kind == "clip":
        return *text, zeros(side, side, 3, dtype=jnp.uint8)
    frames = model.config.max_frames - model.config.max_frames % model.config.frame_portions
    video = zeros(frames, side, side, 3, dtype=jnp.uint8), zeros(frames, dtype=bool)
    row = zeros(dtype=jnp.int32)
    return (Batch(*text, *video, row, row, zeros(dtype=bool)),)


def leaves_of(params: PyTree) -> dict[str, Any]:
    """Returns every leaf of `{"params": ...}` by its path.

    Raises:
      PretrainedError: If the argument has another structure.
    """
    tree = params.get("params") if isinstance(params, Mapping) else None
    if not isinstance(tree, Mapping):
        got = f"keys {listed(list(map(str, params)), most=5)}" if isinstance(params, Mapping) else type(params).__name__
        raise PretrainedError(
            f"params are no variables of a model: got {got}, wanted {{'params': ...}} as model.init gives"
        )
    return dict(flatten_dict(tree, sep="/"))


def shapes_of(params: PyTree) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every leaf of `{"params": ...}` by its path."""
    return {path: tuple(leaf.shape) for path, leaf in leaves_of(params).items()}


def verify(kind: str, config: Mapping, shapes: Shapes, where: str, names: Mapping[str, str] | None = None) -> None:
    """Checks that parameters belong to the model of a configuration.

    Args:
      kind: One of `KINDS`.
      config: The configuration of the model.
      shapes: The shapes of the parameters by path.
      where: The origin of the parameters, for the message.
      names: The names of the parameters at their origin, by path; None means that they are the paths.

    Raises:
      PretrainedError: If they do not match; the message names each field or parameter that differs.
    """
    with naming(where):
        if problems := _problems(kind, config, shapes, names or {}):
            raise PretrainedError(
                f"weights and configuration differ: {listed(problems, '; ')}; convert them again, or correct the "
                "configuration"
            )


def _problems(kind: str, config: Mapping, shapes: Shapes, names: Mapping[str, str]) -> list[str]:
    """Returns in which fields, or else in which parameters, weights differ from the model of a configuration."""
    model = build_model(kind, config)
    if kind == "estimator":
        given = {"kind": model.kind, "num_features": model.num_features}
        found = model_config(kind, shapes)
    else:
        given = dataclasses.asdict(model.config) | {name: getattr(model, name, None) for name in TASK_FIELDS}
        clip, levels = (given, ()) if kind == "clip" else (given["clip"], model.config.levels)
        untold = {name: clip[name] for name in UNTOLD}
        found = model_config(kind, shapes, next((level.name for level in levels), ""), untold)
        for side in ("vision", "text"):
            # A hidden width of four times the width is stored as 0.
            if clip[f"{side}_mlp_features"] == 4 * clip[f"{side}_width"]:
                clip[f"{side}_mlp_features"] = 0
    # Compare the fields first: they say more than shapes, and a model with a wrong number of layers is never built.
    problems = differences(found, given)
    if not problems:
        wanted = shapes_of(abstract_params(kind, config))
        problems = [f"{path} is missing" for path in sorted(set(wanted) - set(shapes))]
        problems += [f"{names.get(path, path)} is not part of the model" for path in sorted(set(shapes) - set(wanted))]
        problems += [
            f"{names.get(path, path)} has shape {shapes[path]}, wanted {wanted[path]} by the other parameters"
            for path in sorted(set(shapes) & set(wanted))
            if shapes[path] != wanted[path]
        ]
    return problems


def differences(found: Mapping, wanted: Mapping, prefix: str = "") -> list[str]:
    """Returns the fields in which the result of `model_config` differs from another configuration."""
    out = []
    for name, value in found.items():
        if isinstance(value, dict):
            out += differences(value, wanted[name], f"{name}.")
        elif name in wanted and value != wanted[name]:
            out.append(f"{prefix}{name} is {value!r}, wanted {wanted[name]!r}")
    return out


def describe(kind: str, config: Mapping) -> list[str]:
    """Returns lines that describe a model."""
    model = build_model(kind, config)
    if kind == "estimator":
        return [f"network {model.kind}, {model.num_features} features"]
    clip: CLIPConfig = model.config if kind == "clip" else model.config.clip
    sizes = tuple(getattr(clip, field) for field in SIZE_FIELDS)
    name = next((name for name, known in ARCHITECTURES.items() if known == sizes), f"ViT/{clip.patch_size}")
    lines = [
        f"towers {name}: images of {clip.image_size} px in patches of "
        f"{clip.patch_size}, vision {clip.vision_layers} layers of {clip.vision_width}, text {clip.text_layers} layers "
        f"of {clip.text_width}, joint width {clip.embed_features}",
        f"texts of at most {clip.context_length} tokens out of {clip.vocab_size}",
        settings_of(clip).text(),
    ]
    if kind == "clip":
        return lines
    hbi: HBIConfig = model.config
    lines += [
        f"levels {', '.join(map(_level_text, hbi.levels))}",
        f"frame transformer of {hbi.frame_layers} layers for at most {hbi.max_frames} frames",
        f"token weights of {hbi.weight_features} features, header {hbi.header}",
    ]
    if kind == "caption":
        lines.append(f"caption decoder of {model.decoder_layers} layers")
    return [*lines, f"{model.num_answers} answers"] if kind == "answer" else lines


def _level_text(level: Level) -> str:
    """Returns the name of a level and the numbers of tokens that it merges to."""
    counts = [f"{count} {side}" for count, side in ((level.words, "words"), (level.frames, "frames")) if count]
    return f"{level.name} ({', '.join(counts)})" if counts else level.name


def _axes(shapes: Shapes, path: str, count: int) -> tuple[int, ...]:
    if path not in shapes:
        raise PretrainedError(f"{path} is missing; the weights are incomplete or have other names: convert them again")
    if len(shapes[path]) != count:
        raise PretrainedError(f"{path} has shape {shapes[path]}, wanted {count} axes; convert the weights again")
    return shapes[path]


def _clip(shapes: Shapes, untold: Mapping[str, Any]) -> dict:
    pixels, vision_width = _axes(shapes, "vision_tower/patch_embedding/kernel", 2)
    positions, _ = _axes(shapes, "vision_tower/positional_embedding", 2)
    vocab_size, text_width = _axes(shapes, "text_tower/token_embedding/embedding", 2)
    patch, grid = math.isqrt(pixels // 3), math.isqrt(max(positions - 1, 0))
    if 3 * patch**2 != pixels or not grid or grid**2 + 1 != positions:
        raise PretrainedError(
            f"a vision tower with {positions} positions for patches of {pixels} numbers: wanted square patches of RGB "
            "in a square grid, and one class token; use another model"
        )
    sizes = CLIPConfig(
        image_size=patch * grid,
        patch_size=patch,
        vision_width=vision_width,
        vision_layers=count_layers(shapes, "vision_tower/transformer/resblocks_"),
        text_width=text_width,
        text_layers=count_layers(shapes, "text_tower/transformer/resblocks_"),
        embed_features=_axes(shapes, "text_tower/text_projection/kernel", 2)[1],
        vocab_size=vocab_size,
        context_length=_axes(shapes, "text_tower/positional_embedding", 2)[0],
        vision_mlp_features=_mlp_features(shapes, "vision_tower", vision_width),
        text_mlp_features=_mlp_features(shapes, "text_tower", text_width),
        **untold,
    )
    _check_untold(sizes)
    return dataclasses.asdict(sizes)


def _mlp_features(shapes: Shapes, tower: str, width: int) -> int:
    """Returns the hidden width of a tower's MLPs as in the configuration: 0 for four times the tower's width."""
    kernel = f"{tower}/transformer/resblocks_0/mlp_fc/kernel"
    hidden = _axes(shapes, kernel, 2)[1] if kernel in shapes else 0
    return 0 if hidden == 4 * width else hidden


def _check_untold(clip: CLIPConfig) -> None:
    """Raises if towers of these widths cannot have these settings."""
    heads = clip.head_features, clip.vision_head_features, clip.text_head_features
    if all(type(width) is int for width in heads) and heads[0] > 0 and min(heads) >= 0:
        vision, text = heads[1] or heads[0], heads[2] or heads[0]
        if clip.vision_width % vision or clip.text_width % text:
            raise PretrainedError(
                f"towers {clip.vision_width} and {clip.text_width} wide do not divide into attention heads "
                f"{vision if vision == text else f'{vision} and {text}'} wide; give their width with "
                "--head-width (vision) and --text-head-width"
            )
    else:
        raise PretrainedError(
            f"attention heads {heads} wide: wanted positive numbers, or 0 for the width in the joint space; correct "
            "the configuration"
        )
    for field, choices in (("activation", ACTIVATIONS), ("pixels", NORMALIZATIONS)):
        if (got := getattr(clip, field)) not in choices:
            raise PretrainedError(f"{field} is {got!r}, wanted one of {', '.join(choices)}; correct the configuration")


def _net(shapes: Shapes, prefix: str, kind_field: str, width_field: str) -> dict:
    """Returns the fields of an interaction network. Kind `none` has no parameters, so its width is unknown."""
    if f"{prefix}conv_in/kernel" not in shapes:
        return {kind_field: "none"}
    side, _, _, width = _axes(shapes, f"{prefix}conv_in/kernel", 4)
    kind = "mlp" if side == 1 else "cnn"
    return {kind_field: kind + ("_sa" if f"{prefix}query/kernel" in shapes else ""), width_field: width}
