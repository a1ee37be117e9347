"""Settings of a CLIP that shapes do not reveal: activation, width of attention heads, and normalisation of pixels.

They come from the user or from a file beside the weights. Otherwise they are assumed, and the assumption is reported.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from hbi_jax.models.clip import PIXELS
from hbi_jax.models.config import CLIPConfig
from hbi_jax.pretrained.errors import PretrainedError, listed
from hbi_jax.pretrained.names import ACTIVATIONS, CONFIG, OPEN_CLIP, PREPROCESSOR

# Fields of `CLIPConfig` that shapes do not reveal.
UNTOLD = ("head_features", "activation", "vision_head_features", "text_head_features", "pixels")
# Prefix of the notes on assumptions.
ASSUMED = "assumed, as nothing tells it"

_HEAD_FEATURES = 64
# Head widths other than 64, by the width of the vision tower: open_clip's ViT-H, g, bigG and e.
_WIDE_HEADS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}

# Fields of open_clip's `vision_cfg` and `text_cfg`, with the only value that our towers support. The other fields
# follow from the shapes or matter only for training.
_ATTENTION = dict.fromkeys(
    ("block_type", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"), None
)
_BOTH = {"ls_init_value": None, "act_kwargs": None, "norm_kwargs": None, **_ATTENTION}
_OPEN_CLIP_FIELDS: dict[str, dict[str, Any]] = {
    "vision_cfg": {
        "timm_model_name": None,
        "attentional_pool": False,
        "no_ln_pre": False,
        "pos_embed_type": "learnable",
        "pool_type": "tok",
        **_BOTH,
    },
    "text_cfg": {
        "hf_model_name": None,
        "embed_cls": False,
        "no_causal_mask": False,
        "pool_type": "argmax",
        "proj_bias": False,
        "proj_type": "linear",
        **_BOTH,
    },
}


class Settings(NamedTuple):
    """The settings of a CLIP that are known; None marks an unknown one.

    Attributes:
      activation: One of `ACTIVATIONS`.
      vision_head, text_head: Width of one attention head in the vision and in the text tower.
      pixels: A key of `PIXELS`.
    """

    activation: str | None = None
    vision_head: int | None = None
    text_head: int | None = None
    pixels: str | None = None

    def over(self, other: "Settings") -> "Settings":
        """Returns these settings, with unknown ones taken from `other`."""
        return Settings(*(theirs if mine is None else mine for mine, theirs in zip(self, other, strict=True)))

    def text(self) -> str:
        """Returns all settings as text."""
        return ", ".join(name.format(value) for name, value in zip(_IN_WORDS, self, strict=True))


_IN_WORDS = ("activation {}", "vision heads {} wide", "text heads {} wide", "pixels {!r}")


# The settings of OpenAI's CLIP, and of the models that the published code of HBI trained from it.
OPENAI = Settings("quick_gelu", _HEAD_FEATURES, _HEAD_FEATURES, "clip")


def settings_of(clip: CLIPConfig) -> Settings:
    """Returns the settings of a configuration."""
    heads = clip.vision_width // clip.vision_heads, clip.text_width // clip.text_heads
    return Settings(clip.activation, *heads, clip.pixels)


def check_given(given: Settings) -> None:
    """Checks settings that the user gives.

    Raises:
      PretrainedError: If a value is not allowed.
    """
    for name, value, choices in (("activation", given.activation, ACTIVATIONS), ("pixels", given.pixels, PIXELS)):
        if value is not None and value not in choices:
            raise PretrainedError(f"{name} {value!r}: wanted one of {', '.join(choices)}; choose one of them")
    for name, value in (("head_width", given.vision_head), ("text_head_width", given.text_head)):
        if value is not None and (type(value) is not int or value < 1):
            raise PretrainedError(f"{name} {value!r}: wanted a positive number of features; correct it")


def hugging_face(config: Mapping[str, Any], preprocessor: Mapping[str, Any], sizes: CLIPConfig, where: str) -> Settings:
    """Returns the settings in Hugging Face's files.

    Args:
      config: The content of `config.json`.
      preprocessor: The content of `preprocessor_config.json`; empty if there is no such file.
      sizes: The sizes that the shapes imply.
      where: The source, for error messages.

    Raises:
      PretrainedError: If the files describe a model that our towers do not support, or belong to other weights.
    """
    if (kind := config.get("model_type", "clip")) != "clip":
        raise PretrainedError(f"{where}: model_type is {kind!r} in {CONFIG}, wanted 'clip'; use such a model")
    heads, activations = [], []
    for side, width, count in (("vision", 768, 12), ("text", 512, 8)):
        # If both exist, transformers uses the one that ends in _dict.
        name = f"{side}_config_dict" if config.get(f"{side}_config_dict") is not None else f"{side}_config"
        section = config.get(name) or {}
        if not isinstance(section, dict):
            raise PretrainedError(f"{where}: {name} is not an object in {CONFIG}; download it again")
        # Fields that a section omits have the defaults of transformers.
        activation = section.get("hidden_act", "quick_gelu")
        if activation not in ACTIVATIONS:
            raise PretrainedError(
                f"{where}: {name}.hidden_act is {activation!r} in {CONFIG}, wanted "
                f"{' or '.join(ACTIVATIONS)}; use such a model"
            )
        if section.get("layer_norm_eps", 1e-5) != 1e-5:
            raise PretrainedError(
                f"{where}: {name}.layer_norm_eps is {section['layer_norm_eps']!r} in {CONFIG}, wanted 1e-05, as "
                "in the training of CLIP; use such a model"
            )
        width, count = section.get("hidden_size", width), section.get("num_attention_heads", count)
        _check_width(width, getattr(sizes, f"{side}_width"), f"{name}.hidden_size", CONFIG, where)
        heads.append(_head(width, count, name, where))
        activations.append(activation)
    _check_equal(activations, where)
    pixels = _pixels(preprocessor, "image_mean", "image_std", PREPROCESSOR, where) if preprocessor else None
    return Settings(activations[0], *heads, pixels)


def open_clip(config: Mapping[str, Any], sizes: CLIPConfig, where: str) -> Settings:
    """Returns the settings in an `open_clip_config.json`.

    Args:
      config: The content of the file.
      sizes: The sizes that the shapes imply.
      where: The source, for error messages.

    Raises:
      PretrainedError: If the file describes a model that our towers do not support, or belongs to other weights.
    """
    model = config.get("model_cfg")
    sections = [model.get(name) for name in _OPEN_CLIP_FIELDS] if isinstance(model, dict) else [None]
    if not all(isinstance(section, dict) for section in sections):
        raise PretrainedError(
            f"{where}: {OPEN_CLIP} has no model_cfg with vision_cfg and text_cfg; download it again, or move it away "
            "and give the settings with --activation and --head-width"
        )
    for (name, fields), section in zip(_OPEN_CLIP_FIELDS.items(), sections, strict=True):
        for field, wanted in fields.items():
            value = section.get(field, wanted)
            # null, false and {} all mean that the option is off.
            if value != wanted and (value or wanted):
                raise PretrainedError(
                    f"{where}: {name}.{field} is {value!r} in {OPEN_CLIP}, wanted {wanted!r}: this library does not "
                    "support such a tower; use another model"
                )
    vision, text = sections
    if text.get("hf_tokenizer_name") and text.get("vocab_size", 49408) != 49408:
        raise PretrainedError(
            f"{where}: text_cfg.hf_tokenizer_name is {text['hf_tokenizer_name']!r} in {OPEN_CLIP}, wanted CLIP's own "
            "tokenizer; use another model"
        )
    width, text_width = vision.get("width", 768), text.get("width", 512)
    _check_width(width, sizes.vision_width, "vision_cfg.width", OPEN_CLIP, where)
    _check_width(text_width, sizes.text_width, "text_cfg.width", OPEN_CLIP, where)
    head = vision.get("head_width", 64)
    if type(head) is not int or head < 1 or width % head:
        raise PretrainedError(
            f"{where}: vision_cfg has heads {head!r} wide for a width of {width}; correct {OPEN_CLIP}"
        )
    text_head = _head(text_width, text.get("heads", 8), "text_cfg", where)
    quick = model.get("quick_gelu", False)
    if not isinstance(quick, bool):
        raise PretrainedError(f"{where}: quick_gelu is {quick!r} in {OPEN_CLIP}, wanted true or false; correct it")
    pixels = _pixels(config.get("preprocess_cfg") or {}, "mean", "std", OPEN_CLIP, where)
    return Settings("quick_gelu" if quick else "gelu", head, text_head, pixels)


def settle(given: Settings, told: Settings, by: str, sizes: CLIPConfig) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Decides the fields of `UNTOLD`: from the user, else from a file, else the most likely value.

    Args:
      given: The settings that the user gives.
      told: The settings found beside the weights.
      by: The name of the file, or another origin of `told`.
      sizes: The sizes that the shapes imply.

    Returns:
      The fields, and notes on which of them were read, overridden and assumed.
    """
    likely = OPENAI._replace(vision_head=_WIDE_HEADS.get(sizes.vision_width, _HEAD_FEATURES))
    known = given.over(told)
    found = known.over(likely)
    notes = [f"activation and attention heads: by {by}"] if by and told != Settings() else []
    for name, mine, theirs in zip(_IN_WORDS, given, told, strict=True):
        if None not in (mine, theirs) and mine != theirs:
            notes.append(f"{name.format(mine)} as you say, against {by or 'what is known'}: {name.format(theirs)}")
    if known.activation is None:
        notes.append(
            f"{ASSUMED}: activation quick_gelu, as in CLIPs of OpenAI, DFN and MetaCLIP; those of LAION "
            "and DataComp have gelu: convert them with --activation gelu"
        )
    if known.vision_head is None or known.text_head is None:
        notes.append(
            f"{ASSUMED}: attention heads {found.vision_head} wide in the vision tower and "
            f"{found.text_head} in the text tower; if they are others, add --head-width N or --text-head-width N"
        )
    if known.pixels is None:
        notes.append(
            f"{ASSUMED}: pixels normalised as in OpenAI's CLIP; if they are to be in -1..1, as in "
            "LAION's ViT-L/14, add --pixels half"
        )
    vision, text = found.vision_head, found.text_head
    # The frame transformer may start as the text tower's first layers, so it gets their head width if that divides its
    # own width.
    joint = next(
        width
        for width in (text, _HEAD_FEATURES, math.gcd(sizes.embed_features, _HEAD_FEATURES))
        if sizes.embed_features % width == 0
    )
    fields = {
        "head_features": joint,
        "activation": found.activation,
        "vision_head_features": 0 if vision == joint else vision,
        "text_head_features": 0 if text == joint else text,
        "pixels": found.pixels,
    }
    return fields, tuple(notes)


def _head(width: object, count: object, section: str, where: str) -> int:
    if not all(type(size) is int and size > 0 for size in (width, count)) or width % count:
        raise PretrainedError(f"{where}: {section} has {count} attention heads for a width of {width}")
    return width // count


def _check_width(told: object, found: int, field: str, file: str, where: str) -> None:
    if told != found:
        raise PretrainedError(
            f"{where}: {field} is {told!r} in {file}, but the weights are {found} wide: it belongs to other weights; "
            "move it away, or replace it with the right file"
        )


def _check_equal(activations: list[str], where: str) -> None:
    if len(set(activations)) > 1:
        raise PretrainedError(
            f"{where}: hidden_act is {' and '.join(map(repr, activations))} in the two towers, wanted the same in both"
        )


def _pixels(section: object, mean: str, std: str, file: str, where: str) -> str:
    """Returns the key of `PIXELS` with this mean and standard deviation, which default to OpenAI's."""
    section = section if isinstance(section, dict) else {}
    told = [section.get(name) or default for name, default in zip((mean, std), PIXELS["clip"], strict=True)]
    for name, known in PIXELS.items():
        if all(_near(a, b) for a, b in zip(told, known, strict=True)):
            return name
    raise PretrainedError(
        f"{where}: {mean} and {std} are {told[0]} and {told[1]} in {file}, wanted those of one of "
        f"{listed([f'{name!r}: {known}' for name, known in PIXELS.items()], '; ')}; use such a model"
    )


def _near(told: object, known: tuple[float, ...]) -> bool:
    told = 3 * [told] if isinstance(told, int | float) else told
    numbers = isinstance(told, list | tuple) and len(told) == 3 and all(isinstance(x, int | float) for x in told)
    return numbers and all(math.isclose(x, y, abs_tol=1e-3) for x, y in zip(told, known, strict=True))
