"""Initialises a model's parameters from weights of the same model or of a CLIP."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Float, PyTree

from hbi_jax.fields import plain
from hbi_jax.models.config import CLIPConfig
from hbi_jax.pretrained.errors import PretrainedError, listed
from hbi_jax.pretrained.folder import Pretrained
from hbi_jax.pretrained.names import KINDS
from hbi_jax.pretrained.sizes import TASK_FIELDS, build_model, differences, kind_of, leaves_of, model_config
from hbi_jax.types import ArrayLike

_log = logging.getLogger(__name__)

Leaves = Mapping[str, ArrayLike]  # by path

_FRAMES, _TEXT, _LEVEL, _HEADS = "frame_transformer/", "text_tower/", "text_weight_", ("answer_", "caption/")
_TOWERS = (_TEXT, "vision_tower/", "logit_scale")


def initialize(params: PyTree, source: Pretrained, config: Mapping | None = None) -> PyTree:
    """Returns fresh parameters, replaced by those of `source` where it has them.

    A source of the same kind replaces all parameters. An HBI replaces the shared parameters of an HBI with answer head
    or caption decoder. A CLIP replaces the towers and logit scale of any HBI or HCMI. As published, it also initialises
    the frame transformer with the first layers of the text tower, and the frame positions with the text positions, if
    the two transformers have the same width, heads and MLPs. The positions are the first rows; if more are needed, they
    are linearly interpolated. All other parameters stay as they are.

    Args:
      params: A model's variables, `{"params": ...}`.
      source: Weights, for example from `load`.
      config: The fields of `config.model` of the model of `params`; ignored for an estimator. If given, settings that
        shapes do not reveal are compared too: attention heads, activation and pixels must agree; another padding,
        other cluster counts, players, windows or pasts of frames and gate bounds are logged as a warning.

    Returns:
      The variables, with numpy arrays for the replaced parameters.

    Raises:
      PretrainedError: If the source is of an unsuitable kind, or its sizes or settings differ.
    """
    ours, given = leaves_of(params), leaves_of(source.params)
    kind = kind_of(list(ours))
    if kind == "hbi" and config is not None:
        # An HCMI of one level has the parameters of an HBI.
        kind = config.get("method", kind)
    parts = {"hbi": ("clip",), "hcmi": ("clip",), "answer": ("hbi", "clip"), "caption": ("hbi", "clip")}.get(kind, ())
    if source.kind not in (kind, *parts):
        others = {"clip": " or a CLIP for its towers", "hbi": " or an HBI for all but its heads"}
        raise PretrainedError(
            f"the weights are of kind {source.kind!r} ({KINDS.get(source.kind, 'unknown')}), wanted {kind!r} "
            f"({KINDS[kind]}){''.join(others[part] for part in parts)}; choose other weights"
        )
    shared = {"clip": lambda name: name.startswith(_TOWERS), "hbi": lambda name: not name.startswith(_HEADS)}
    wanted = {name: leaf for name, leaf in ours.items() if source.kind == kind or shared[source.kind](name)}
    _check(source.kind, given, wanted)
    if config is not None and kind != "estimator":
        _check_settings(source, config)
    new = {name: given[name] for name in wanted}
    if source.kind == "clip" and kind != "clip":
        new |= _frame_transformer(given, ours, config)
    new = {name: np.asarray(array, ours[name].dtype) for name, array in new.items()}
    return {**params, "params": unflatten_dict(ours | new, sep="/")}


def _check(kind: str, given: Leaves, wanted: Leaves) -> None:
    """Raises if weights and parameters have different configurations; the message names the fields that differ."""
    levels = [{name.split("/")[0] for name in leaves if name.startswith(_LEVEL)} for leaves in (given, wanted)]
    problems = []
    if levels[0] != levels[1]:
        names = [", ".join(sorted(name.removeprefix(_LEVEL) for name in side)) for side in levels]
        problems = [f"levels are {names[0]}, wanted {names[1]}"]
    else:
        first = min(levels[0], default="").removeprefix(_LEVEL)
        # Shapes do not reveal the head width; 1 divides the width of every tower.
        fields = [
            model_config(kind, {name: tuple(leaf.shape) for name, leaf in leaves.items()}, first, {"head_features": 1})
            for leaves in (given, wanted)
        ]
        problems = differences(*fields)
        problems += [f"{name} is missing" for name in sorted(set(wanted) - set(given))]
        problems += [f"{name} has no place" for name in sorted(set(given) - set(wanted))]
        problems += [
            f"{name} has shape {given[name].shape}, wanted {wanted[name].shape}"
            for name in sorted(set(given) & set(wanted))
            if not problems and given[name].shape != wanted[name].shape
        ]
    if problems:
        raise PretrainedError(
            f"the weights are of another configuration: {listed(problems, '; ')}; set config.model as theirs is, or "
            "choose other weights"
        )


def _check_settings(source: Pretrained, config: Mapping) -> None:
    """Raises if settings that shapes do not reveal differ; only warns if the difference may be intended."""
    theirs = build_model(source.kind, source.config).config
    # The fields of answer heads and caption decoders are not compared.
    fields = {name: value for name, value in config.items() if name not in TASK_FIELDS}
    ours = build_model("hbi", fields).config
    given, wanted = ({} if source.kind == "clip" else plain(theirs)), plain(ours)

    def compare(*names: str) -> list[str]:
        return differences({name: given[name] for name in names if name in given}, wanted)

    clip = theirs if source.kind == "clip" else theirs.clip
    # A CLIP has no attention in the joint space.
    parts = ("vision", "text") if source.kind == "clip" else ("vision", "text", "joint")
    if problems := [*_other_heads(clip, ours.clip, parts), *compare("merge_heads")]:
        raise PretrainedError(
            f"the weights are of a model with other attention heads: {listed(problems, '; ')}; set config.model as "
            "theirs is, or choose other weights"
        )
    computed = [{name: getattr(config, name) for name in ("activation", "pixels")} for config in (clip, ours.clip)]
    if problems := differences(*computed, "clip."):
        raise PretrainedError(
            f"the weights are of a model that computes something else: {listed(problems, '; ')}; set config.model as "
            "theirs is, or choose other weights"
        )
    for problem in compare("padding", "levels", "end_tokens", "frame_window", "frame_past", "gate_bound"):
        _log.warning("in the model of the weights %s by config.model; config.model is used", problem)


def _other_heads(given: CLIPConfig, wanted: CLIPConfig, parts: Sequence[str]) -> list[str]:
    """Returns the head widths that differ, by field."""
    problems = []
    for part in parts:
        own = f"{part}_head_features"
        field = own if getattr(given, own, 0) or getattr(wanted, own, 0) else "head_features"
        widths = [
            (clip.embed_features if part == "joint" else getattr(clip, f"{part}_width"))
            // getattr(clip, f"{part}_heads")
            for clip in (given, wanted)
        ]
        if widths[0] != widths[1]:
            problems.append(f"clip.{field} is {widths[0]}, wanted {widths[1]}")
    return list(dict.fromkeys(problems))


def _frame_transformer(clip: Leaves, ours: Leaves, config: Mapping | None) -> Leaves:
    """Returns a CLIP's parameters for the frame transformer; empty if its layers differ from the text tower's."""
    text = {_FRAMES + name.removeprefix(_TEXT): leaf for name, leaf in clip.items() if name.startswith(_TEXT)}
    layers = {name: text[name] for name in ours if name.startswith(f"{_FRAMES}transformer/resblocks_") and name in text}
    position = f"{_FRAMES}positional_embedding"
    width, joint = text[position].shape[1], ours[f"{_TEXT}text_projection/kernel"].shape[1]
    if width != joint:
        _log.warning(
            "the frame transformer, %d wide, stays as initialised: the text tower's layers are %d wide", joint, width
        )
        return {}
    if others := [name for name, leaf in layers.items() if leaf.shape != ours[name].shape]:
        _log.warning("the frame transformer stays as initialised: in the text tower, %s is of another shape", others[0])
        return {}
    heads = CLIPConfig(**config["clip"]) if config is not None else None
    if heads is not None and heads.joint_heads != heads.text_heads:
        _log.warning(
            "the frame transformer stays as initialised: it has %d heads, the text tower's layers have %d",
            heads.joint_heads,
            heads.text_heads,
        )
        return {}
    if position not in ours:
        return layers
    count, wanted = len(text[position]), len(ours[position])
    if wanted > count:
        _log.info("%d frame positions are interpolated from %d text positions", wanted, count)
    return {**layers, position: stretch(np.asarray(text[position]), wanted)}


def stretch(rows: Float[np.ndarray, "n d"], count: int) -> Float[np.ndarray, "count d"]:
    """Returns the first `count` rows; if there are fewer, interpolates linearly between the first and the last."""
    if count <= len(rows):
        return rows[:count]
    place = np.linspace(0, len(rows) - 1, count)
    low = np.minimum(place.astype(int), max(len(rows) - 2, 0))
    share = (place - low)[:, None].astype(rows.dtype)
    return (1 - share) * rows[low] + share * rows[np.minimum(low + 1, len(rows) - 1)]
