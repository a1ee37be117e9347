"""The ablation tables of the paper and some more, as data: a row is a name and the fields that it overrides.

Tables 5, 6, 7, weights and teachers each change one part of the full HBI V2 model, which has reconstruction. Models
have no motion loss, and both end tokens as players, unless their names say otherwise. Other fields keep the values of
the configuration.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from hbi_jax.fields import ConfigError

# Field values by dotted name.
Overrides = dict[str, object]

# A placeholder for the work folder of an estimator, which is trained on the exact-teacher model.
ESTIMATOR = "{estimator}"


class Row(NamedTuple):
    """A model of a table.

    Attributes:
      name: The name in the table.
      overrides: The fields that differ from the configuration.
      paper: Its text-to-video R@1 on MSR-VTT in the HBI V2 paper; None if the paper has no such row.
    """

    name: str
    overrides: Overrides
    paper: float | None = None


class Table(NamedTuple):
    """A set of models to compare.

    Attributes:
      title: The heading.
      note: A text that describes the rows.
      rows: A function from a configuration of HBI with three levels to the models.
      retrieval: Whether the models are for retrieval only.
    """

    title: str
    note: str
    rows: Callable[[ConfigDict], list[Row]]
    retrieval: bool = False


# The papers' losses and players. What else the configuration adds stays, such as frame_past and teacher_temperature.
_PUBLISHED: Overrides = {"loss.motion_weight": 0.0, "model.end_tokens": "both"}
V1: Overrides = {"model.reconstruction": False, **_PUBLISHED}
V2: Overrides = {"model.reconstruction": True, **_PUBLISHED}
_MOTION: Overrides = {"loss.motion_weight": 1.0}
_WORDS_ONLY: Overrides = {"model.end_tokens": "none"}
_START_TOKEN: Overrides = {"model.end_tokens": "start"}
_NO_INTERACTION: Overrides = {"loss.interaction_weight": 0.0}
_NO_DISTILLATION: Overrides = {"loss.distillation_weight": 0.0}


def _one_level(config: ConfigDict) -> Overrides:
    """Returns the overrides without deep supervision: only the finest level, and no distillation."""
    return {
        "model.levels": tuple(config.model.levels[:1]),
        "eval.level_rates": (config.eval.level_rates[0] or 1.0,),
        "loss.distillation_paths": (),
        **_NO_DISTILLATION,
    }


def _contrastive_only(config: ConfigDict) -> Overrides:
    return V1 | _one_level(config) | _NO_INTERACTION


def _components(config: ConfigDict) -> list[Row]:
    return [
        Row("contrastive only", _contrastive_only(config), 46.6),
        Row("+ interaction", V1 | _one_level(config), 47.4),
        Row("+ deep supervision", V1 | _NO_INTERACTION | _NO_DISTILLATION, 47.2),
        Row("+ deep supervision, distillation", V1 | _NO_INTERACTION, 47.6),
        Row("+ interaction, deep supervision", V1 | _NO_DISTILLATION, 48.2),
        Row("+ interaction, deep supervision, distillation", V1, 48.6),
        Row("all of these and reconstruction", V2, 49.4),
    ]


def _headers(config: ConfigDict) -> list[Row]:
    kinds = {"none": 47.7, "mlp": 48.0, "cnn": 48.5, "mlp_sa": 48.4, "cnn_sa": 49.4}
    return [
        Row("contrastive only", _contrastive_only(config), 46.6),
        *(Row(f"header {kind}", V2 | {"model.header": kind}, paper) for kind, paper in kinds.items()),
    ]


# Numbers of frames and words at the action and event levels in the paper, with R@1; _CHOSEN is the paper's model.
_CLUSTERS = (
    ((9, 3), (18, 4), 48.7),
    ((9, 3), (16, 4), 48.6),
    ((6, 2), (16, 4), 49.4),
    ((6, 2), (12, 3), 48.9),
    ((3, 2), (8, 3), 48.7),
)
_CHOSEN = ((6, 2), (16, 4))


def _clusters(config: ConfigDict) -> list[Row]:
    """Scales the paper's counts by the ratio of this configuration's counts to the paper's, up to the token counts."""
    first, *coarser = config.model.levels
    own = {"frames": [level[2] for level in coarser], "words": [level[1] for level in coarser]}
    tokens = {"frames": first[2] or config.data.num_frames, "words": first[1] or config.data.num_words}

    def scaled(side: str, counts: tuple[int, int], chosen: tuple[int, int]) -> list[int]:
        out, most = [], tokens[side]
        for ours, count, theirs in zip(own[side], counts, chosen, strict=True):
            most = min(most, max(1, int((ours or most) * count / theirs + 0.5)))
            out.append(most)
        return out

    rows = []
    for frames, words, paper in _CLUSTERS:
        counts = (scaled("words", words, _CHOSEN[1]), scaled("frames", frames, _CHOSEN[0]))
        levels = tuple((level[0], *pair) for level, *pair in zip(coarser, *counts, strict=True))
        name = f"{counts[1][0]}, {counts[1][1]} frames; {counts[0][0]}, {counts[0][1]} words"
        rows.append(Row(name, V2 | {"model.levels": (tuple(first), *levels)}, paper))
    return rows


def _paths(config: ConfigDict) -> list[Row]:
    e, a, o = (level[0] for level in config.model.levels)
    # Empty paths mean: from the first level to every other level.
    paths = {
        "E→A": (((e, a),), 48.7),
        "E→O": (((e, o),), 48.5),
        "A→O": (((a, o),), 48.2),
        "E→A, A→O": (((e, a), (a, o)), 48.8),
        "E→A, E→O": ((), 49.4),
    }
    sharp = {"loss.distillation_temperature": 0.01}
    rows = {name: (V2 | {"loss.distillation_paths": pairs}, paper) for name, (pairs, paper) in paths.items()}
    return [
        *(Row(name, overrides, paper) for name, (overrides, paper) in rows.items()),
        *(Row(f"{name}, temperature 0.01", overrides | sharp) for name, (overrides, _) in rows.items()),
    ]


def _weights(config: ConfigDict) -> list[Row]:
    # From the ranges of Fig. 8: 0.3 to 1.8, and 0.5 to 3.5 for question answering.
    values = (0.5, 1.0, 2.0, 2.8, 3.5) if config.task == "answers" else (0.3, 0.6, 1.0, 1.4, 1.8)
    return [
        Row(f"{symbol} = {value}", V2 | {field: value})
        for symbol, field in (("α", "loss.interaction_weight"), ("β", "loss.distillation_weight"))
        for value in values
    ]


def _versions(config: ConfigDict) -> list[Row]:
    return [
        Row("contrastive only", _contrastive_only(config), 46.6),
        Row("V1", V1, 48.6),
        Row("V2", V2, 49.4),
    ]


def _teachers(config: ConfigDict) -> list[Row]:
    return [
        Row("exact", V2 | {"loss.teacher": "exact", "loss.estimator": ""}),
        Row("estimator", V2 | {"loss.teacher": "estimator", "loss.estimator": ESTIMATOR}),
        *(
            Row(
                f"sampled, {count:,} coalitions",
                V2 | {"loss.teacher": "sampled", "loss.estimator": "", "loss.num_samples": count},
            )
            for count in (1000, 100)
        ),
    ]


def _pointing(config: ConfigDict) -> list[Row]:
    near, past = {"model.frame_window": 1}, {"model.frame_past": 1}
    same_spread = {"loss.teacher_temperature": 1.0}
    papers = {"loss.teacher_temperature": 0.0, "model.gate_bound": 0.0}
    papers |= {"model.frame_window": 0, "model.frame_past": 0, "model.frame_positions": "absolute"}
    relative, bounded = {"model.frame_positions": "relative"}, {"model.gate_bound": 0.5}
    return [
        Row("contrastive only", _contrastive_only(config) | papers),
        Row("V1", V1 | papers),
        Row("V1, frames see their neighbours", V1 | papers | near),
        Row("V1, standardised teacher", V1 | papers | same_spread),
        Row("V1, both", V1 | papers | near | same_spread),
        Row("V2", V2 | papers),
        Row("V2, both", V2 | papers | near | same_spread),
        Row("V2, both, bounded gates", V2 | papers | near | same_spread | bounded),
        Row("V1, both, relative positions", V1 | papers | near | same_spread | relative),
        Row("V1, both, relative positions, motion", V1 | papers | near | same_spread | relative | _MOTION),
        Row(
            "V1, both, relative positions, motion, words only",
            V1 | papers | near | same_spread | relative | _MOTION | _WORDS_ONLY,
        ),
        Row(
            "V1, the past, standardised, relative, motion, start token",
            V1 | papers | past | same_spread | relative | _MOTION | _START_TOKEN,
        ),
        Row("V2, the past, standardised, bounded, relative", V2 | papers | past | same_spread | bounded | relative),
    ]


# Frames of the grid for each frame that HBI would sample, so that segments hold several.
_DENSITY = 3
_PLAIN: Overrides = {"loss.denoising": False, "loss.margin_weight": 0.0}
_DENOISING: Overrides = {"loss.denoising": True}
_MARGIN: Overrides = {"loss.margin_weight": 1.0}


def _hierarchy(config: ConfigDict, names: tuple[str, ...], share: float = 1 / 4) -> Overrides:
    """Returns the overrides that make an HBI configuration one of HCMI, with some of its levels and plain losses."""
    counts = (math.ceil(share * config.data.num_words), math.ceil(share * config.data.num_frames))
    levels = {"frame": (0, 0), "clip": counts, "video": (1, 1)}
    return {
        **V1,
        **_NO_INTERACTION,
        **_NO_DISTILLATION,
        **_PLAIN,
        "model.method": "hcmi",
        "model.levels": tuple((name, *levels[name]) for name in names),
        "model.frame_layers": 0,
        "model.frame_past": 0,
        "model.frame_positions": "absolute",
        "model.end_tokens": "both",
        "model.header": "none",
        "loss.distillation_paths": (),
        "data.sampling": "segments",
        "data.num_views": 2,
        "data.frames_per_second": _DENSITY * config.data.frames_per_second,
        "eval.level_rates": (1 / len(names),) * len(names),
    }


_THREE = ("frame", "clip", "video")


def _hcmi_parts(config: ConfigDict) -> list[Row]:
    three = _hierarchy(config, _THREE)
    whole = three | _DENOISING | _MARGIN
    rates = {"frame-word": (1.0, 0.0, 0.0), "clip-phrase": (0.0, 1.0, 0.0), "video-sentence": (0.0, 0.0, 1.0)}
    return [
        Row("frame-word", _hierarchy(config, ("frame",))),
        Row("video-sentence", _hierarchy(config, ("video",))),
        Row("frame-word, clip-phrase", _hierarchy(config, ("frame", "clip"))),
        Row("frame-word, video-sentence", _hierarchy(config, ("frame", "video"))),
        Row("three levels", three),
        Row("three levels, denoising", three | _DENOISING),
        Row("three levels, margin", three | _MARGIN),
        Row("three levels, denoising, margin", whole),
        Row("video-sentence, denoising, margin", _hierarchy(config, ("video",)) | _DENOISING | _MARGIN),
        *(
            Row(f"all, {name} as many clips and phrases", _hierarchy(config, _THREE, share) | _DENOISING | _MARGIN)
            for name, share in (("1/6", 1 / 6), ("1/2", 1 / 2))
        ),
        *(Row(f"all, theta {theta}", whole | {"loss.margin": theta}) for theta in (0.1, 0.3)),
        *(Row(f"all, evaluated by {name}", whole | {"eval.level_rates": rate}) for name, rate in rates.items()),
    ]


def _methods(config: ConfigDict) -> list[Row]:
    return [
        Row("contrastive only", _contrastive_only(config)),
        Row("HBI", V1),
        Row("HBI V2", V2),
        Row("HCMI", _hierarchy(config, _THREE) | _DENOISING | _MARGIN),
        Row("HBI, motion loss", V1 | _MOTION),
    ]


_EVERY_LEVEL = (
    "A model with several levels is evaluated with config.eval.level_rates, a model with one level by that level."
)

# By the value of `--table`.
TABLES = {
    "4": Table(
        "Table IV: parts of the method",
        "Our copy of the paper lacks the ticks of this table, so the assignment of its figures to rows is our reading "
        f"of its text. Distillation needs several levels, so it always includes deep supervision. {_EVERY_LEVEL}",
        _components,
    ),
    "5": Table(
        "Table V: prediction headers",
        "none: the raw similarities are trained to match the interaction; sa: self-attention.",
        _headers,
    ),
    "6": Table(
        "Table VI: numbers of clusters",
        "Counts at the action and event levels. They are the paper's, in the order of its rows, scaled by the ratio of "
        "the configuration's counts to the paper's 6, 2 frames and 16, 4 words.",
        _clusters,
    ),
    "7": Table(
        "Table VII: paths of the self-distillation",
        "E: entity, A: action, O: event level. At temperature 1, as in the paper's equation, the term is small, so the "
        "paths are also compared at 0.01.",
        _paths,
    ),
    "weights": Table(
        "Weights of interaction and distillation (Fig. 8)",
        "α is the weight of the interaction loss, β that of the self-distillation. The other weight is as configured.",
        _weights,
    ),
    "versions": Table(
        "Baseline, V1 and V2",
        f"V1: interaction, deep supervision and distillation; V2: V1 with reconstruction. {_EVERY_LEVEL}",
        _versions,
    ),
    "teachers": Table(
        "Where the interaction comes from",
        "Each estimator was trained on the exact-teacher model of the first seed of its command.",
        _teachers,
    ),
    "pointing": Table(
        "What makes words point",
        "Neighbours: config.model.frame_window=1. The past: config.model.frame_past=1. Standardised: "
        "config.loss.teacher_temperature=1. Bounded: config.model.gate_bound=0.5. Relative positions: "
        "config.model.frame_positions. Motion: config.loss.motion_weight=1. Words only, start token: "
        "config.model.end_tokens. Inside: the share of a word's positive interaction in the frames that show what it "
        "refers to, at the first level; chance is a word that points nowhere.",
        _pointing,
    ),
    "hcmi": Table(
        "HCMI: levels, label denoising and margin",
        "all: three levels, denoising and margin, with 1/4 as many clips and phrases as frames and words, theta 0.2 "
        "and the mean of the three similarities. All models draw frames from segments. The paper's own table is not "
        "known.",
        _hcmi_parts,
        retrieval=True,
    ),
    "methods": Table(
        "Contrastive learning, HBI, HBI V2 and HCMI",
        "The same towers, steps and data. The motion loss is not from the papers. HCMI draws its frames from segments; "
        f"the others take the same ones each time. {_EVERY_LEVEL}",
        _methods,
        retrieval=True,
    ),
}


def rows_of(name: str, config: ConfigDict) -> list[Row]:
    """Returns the models of a table for a configuration.

    Raises:
      ConfigError: If the task, levels or loss weights of the configuration do not suit the tables.
    """
    if config.task == "estimator":
        raise ConfigError("config.task='estimator': wanted a task that aligns; give the configuration of another task")
    if TABLES[name].retrieval and config.task != "retrieval":
        raise ConfigError(
            f"config.task={config.task!r}: wanted 'retrieval' for --table={name}; give such a configuration"
        )
    if config.model.method != "hbi":
        raise ConfigError(
            f"config.model.method={config.model.method!r}: wanted 'hbi', of which the tables make their models, those "
            "of HCMI included; give a configuration such as configs/quickstart.py"
        )
    levels = [level[0] for level in config.model.levels]
    if len(levels) != 3:
        raise ConfigError(f"config.model.levels={levels}: wanted three levels, as the paper's tables have; add them")
    for field in ("interaction_weight", "distillation_weight"):
        if not config.loss[field]:
            raise ConfigError(f"config.loss.{field}=0: wanted more than 0, as the tables turn it off; set it to 1")
    return TABLES[name].rows(config)
