"""The tables of the paper's ablations, and some more, as data: every row is a few fields of a configuration.

Tables 5, 6, 7, weights and teachers change one thing of the whole model of HBI V2, the configuration with
reconstruction; what a row does not name is as the configuration has it.
"""

from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from hbi_jax.fields import ConfigError

# Values of fields by dotted names.
Overrides = dict[str, object]

# Stands for the work folder of an estimator that learnt from the row before.
ESTIMATOR = "{estimator}"


class Row(NamedTuple):
    """A model of a table.

    Attributes:
      name: In the table.
      overrides: What differs from the configuration.
      paper: Its text-to-video R@1 on MSR-VTT in HBI V2's paper; None where the paper has no such row.
    """

    name: str
    overrides: Overrides
    paper: float | None = None


class Table(NamedTuple):
    """Models to compare.

    Attributes:
      title: Heading.
      note: Sentences on what its rows are.
      rows: The models, for a configuration with three levels.
    """

    title: str
    note: str
    rows: Callable[[ConfigDict], list[Row]]


V1: Overrides = {"model.reconstruction": False}
V2: Overrides = {"model.reconstruction": True}
_NO_INTERACTION: Overrides = {"loss.interaction_weight": 0.0}
_NO_DISTILLATION: Overrides = {"loss.distillation_weight": 0.0}


def _one_level(config: ConfigDict) -> Overrides:
    """Without deep supervision: the finest level alone, from which nothing is distilled."""
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


# Frames and words of the action and event level in the paper, with its R@1; _CHOSEN are those of its model.
_CLUSTERS = (
    ((9, 3), (18, 4), 48.7),
    ((9, 3), (16, 4), 48.6),
    ((6, 2), (16, 4), 49.4),
    ((6, 2), (12, 3), 48.9),
    ((3, 2), (8, 3), 48.7),
)
_CHOSEN = ((6, 2), (16, 4))


def _clusters(config: ConfigDict) -> list[Row]:
    """The paper's counts times what this configuration has of the paper's model; at most the tokens there are."""
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
    # No paths: from the first level to each other.
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
    # Of the ranges of Fig. 8, which are 0.3 to 1.8, and 0.5 to 3.5 for questions.
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
        Row("sampled", V2 | {"loss.teacher": "sampled", "loss.estimator": ""}),
    ]


_EVERY_LEVEL = (
    "A model of several levels is evaluated by all that config.eval.level_rates counts, one of a single level by it."
)

# By the value of `--table`.
TABLES = {
    "4": Table(
        "Table IV: parts of the method",
        "The paper's ticks are lost in the text that we have: which row is which is our reading of its sentences and "
        f"figures. Distillation needs levels to distil to, so it comes with deep supervision. {_EVERY_LEVEL}",
        _components,
    ),
    "5": Table(
        "Table V: prediction headers",
        "none: the raw similarities are compared with the interaction; sa: self-attention.",
        _headers,
    ),
    "6": Table(
        "Table VI: numbers of clusters",
        "Counts of the action and of the event level: the paper's, in the order of its rows, scaled by what the "
        "configuration has of the paper's 6, 2 frames and 16, 4 words.",
        _clusters,
    ),
    "7": Table(
        "Table VII: paths of the self-distillation",
        "E: entity, A: action, O: event level. At temperature 1, the paper's equation, the term is small; so the paths "
        "are also compared at 0.01.",
        _paths,
    ),
    "weights": Table(
        "Weights of interaction and distillation (Fig. 8)",
        "α weighs the interaction loss, β the self-distillation; the other is as configured.",
        _weights,
    ),
    "versions": Table(
        "Baseline, V1 and V2",
        f"V1: interaction, deep supervision and distillation; V2: and reconstruction. {_EVERY_LEVEL}",
        _versions,
    ),
    "teachers": Table(
        "Where the interaction comes from",
        "The estimator learnt from the model that the exact interaction taught with the first seed.",
        _teachers,
    ),
}


def rows_of(name: str, config: ConfigDict) -> list[Row]:
    """The models of a table for a configuration.

    Raises:
      ConfigError: If there is nothing to take away or to change: the task, levels or weights do not fit.
    """
    if config.task == "estimator":
        raise ConfigError("config.task='estimator': wanted a task that aligns; give the configuration of one")
    levels = [level[0] for level in config.model.levels]
    if len(levels) != 3:
        raise ConfigError(f"config.model.levels={levels}: wanted three levels, as the paper's tables have; add them")
    for field in ("interaction_weight", "distillation_weight"):
        if not config.loss[field]:
            raise ConfigError(f"config.loss.{field}=0: wanted more, for the tables to take it away; set it to 1")
    return TABLES[name].rows(config)
