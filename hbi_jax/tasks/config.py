"""The configuration of a run: composes the sections that the rooms declare."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any, Literal

from hbi_jax import fields
from hbi_jax.data.config import QUESTIONS, DataConfig
from hbi_jax.fields import LARGEST_SEED, ConfigError, field, require, section
from hbi_jax.models.config import HBIConfig, of_earlier_versions
from hbi_jax.parallel.config import MeshConfig
from hbi_jax.tasks.answers.config import BEST_METRICS as ANSWER_METRICS
from hbi_jax.tasks.answers.config import AnswerLossConfig, AnswersConfig
from hbi_jax.tasks.captions.config import BEST_METRICS as CAPTION_METRICS
from hbi_jax.tasks.captions.config import CaptionLossConfig, CaptionsConfig
from hbi_jax.tasks.estimator.config import BEST_METRICS as ESTIMATOR_METRICS
from hbi_jax.tasks.estimator.config import EstimatorConfig
from hbi_jax.tasks.retrieval.config import BEST_METRICS as RETRIEVAL_METRICS
from hbi_jax.train.config import OptimizerConfig, TrainConfig

TaskName = Literal["retrieval", "estimator", "answers", "captions"]
# The validation metrics of each task for which larger is better.
_BEST_METRICS: Mapping[str, tuple[str, ...]] = {
    "retrieval": RETRIEVAL_METRICS,
    "estimator": ESTIMATOR_METRICS,
    "answers": ANSWER_METRICS,
    "captions": CAPTION_METRICS,
}

# Fields of the model that change memory, time and rounding only.
COMPUTE_FIELDS = ("model.remat", "model.frame_portions", "model.scan_layers", "model.attention")
# Fields that may change when a run is resumed: they do not affect what is learned, or they name folders that may have
# moved.
FREE_FIELDS = (
    *COMPUTE_FIELDS,
    "init",
    "loss.estimator",
    "data.annotations",
    "data.videos",
    "data.feature_folder",
    "data.num_workers",
    "data.num_threads",
    "data.cache_gib",
    "data.video_timeout",
    "data.max_unreadable_rate",
    "data.prepare",
    "train.log_every",
    "train.keep",
    "train.skip_nonfinite",
    "train.stall_minutes",
    "eval",
    "mesh",
)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """How checkpoints are evaluated and selected."""

    batch_size: int = field(128, "Texts or videos per encoding batch.", at_least=1)
    video_block: int = field(32, "Videos per block when similarities are computed.", at_least=1)
    level_rates: tuple[float, ...] = field(
        (1.0, 0.0, 0.0), "Weight of each level's similarity in the evaluation; 0 skips the level."
    )
    best_metric: str = field(
        "t2v/R@1",
        "Validation metric whose largest value selects the best checkpoint. retrieval: t2v/R@1, v2t/R@10, Rsum and so "
        "on. answers: accuracy or in_vocabulary/accuracy. captions: CIDEr, ROUGE-L or BLEU-4 or, in the embedded "
        "world, first_event/accuracy or all_events/accuracy. estimator: correlation or top1.",
    )
    normalize: tuple[Literal["dual_softmax", "querybank"], ...] = field(
        (),
        "Normalisations of the retrieval similarities. Each adds a row to the report: dual_softmax (over all test "
        "queries) and querybank (over training queries). Validation never uses them.",
    )
    dual_softmax_temperature: float = field(0.01, "Divides the similarities in the softmax of dual_softmax.", above=0)
    querybank_temperature: float = field(0.05, "Divides the similarities in the softmax of querybank.", above=0)
    querybank_size: int = field(
        1000, "Maximum number of training texts in the querybank, with their videos.", at_least=1
    )
    baselines: bool = field(True, "Add baselines to the report, such as the untrained model and mean-pooled features.")
    question_only_run: str = field(
        "",
        "For task=answers: the work folder of a run with answers.question_only, which is added to the report as a "
        "baseline.",
    )
    num_pictures: int = field(
        4, "Number of test videos drawn in the report, with their interaction, answers or captions.", at_least=0
    )
    word_times: str = field(
        "",
        "For task=retrieval: a JSON lines file of the times that words of captions refer to (docs/data.md). The report "
        "then says whether words point at them. The embedded world brings its own.",
    )
    patch_texts: int = field(
        64,
        "For task=retrieval: number of texts of each gallery, spread evenly, whose words also play with the patches of "
        "a frame. The report then says where in the picture they point; 0: none. It needs boxes, which the embedded "
        "world brings.",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class LossConfig(AnswerLossConfig, CaptionLossConfig):
    """The losses of all tasks; each task reads only its own."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A run. The defaults are ViT-B/32 with the three levels of HBI V2's paper."""

    name: str = field("HBI", "Name of the method in tables.")
    task: TaskName = field(
        "retrieval",
        "What to train: retrieval, answers (video question answering), captions (video captioning), or estimator (the "
        "network of loss.teacher=estimator).",
    )
    init: str = field(
        "",
        "Initial weights: a folder written by `python -m hbi_jax.pretrained convert`, a work folder, or shapes-clip: "
        "towers for the embedded world that ship with the package. Empty: random.",
    )
    seed: int = field(
        0,
        "Seed of the initialisation, of the order and augmentation of training data, and of sampling teachers.",
        at_least=0,
        at_most=LARGEST_SEED,
    )
    model: HBIConfig = section(HBIConfig, "The model.")
    data: DataConfig = section(DataConfig, "The data.")
    loss: LossConfig = section(LossConfig, "The losses.")
    answers: AnswersConfig = section(
        AnswersConfig, "The answer vocabulary of task=answers, and how questions are batched."
    )
    captions: CaptionsConfig = section(CaptionsConfig, "Training and decoding of task=captions.")
    estimator: EstimatorConfig = section(EstimatorConfig, "The network of task=estimator and its labels.")
    optimizer: OptimizerConfig = section(OptimizerConfig, "The optimizer.")
    train: TrainConfig = section(TrainConfig, "Length and intervals of training.")
    eval: EvalConfig = section(EvalConfig, "Evaluation and checkpoint selection.")
    mesh: MeshConfig = section(MeshConfig, "The device mesh.")

    @property
    def level_rates(self) -> dict[str, float]:
        """Returns the evaluation weight of each level by its name."""
        return {level.name: rate for level, rate in zip(self.model.levels, self.eval.level_rates, strict=True)}

    def replace(self, **changes: Any) -> "Config":
        """Returns a copy with some fields changed; `data__cache_gib=0.0` changes a field of a section."""
        sections: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            first, _, rest = name.partition("__")
            sections.setdefault(first, {})[rest] = value
        return dataclasses.replace(
            self,
            **{
                name: inner[""] if "" in inner else dataclasses.replace(getattr(self, name), **inner)
                for name, inner in sections.items()
            },
        )

    def validate(self, path: str) -> None:
        """Checks the relations between sections."""
        self._validate_task(path)
        self._validate_tokens(path)
        self._validate_levels(path)

    def _validate_task(self, path: str) -> None:
        """Checks that the task has the selection metric, the data set and the normalisations."""
        task, metrics = self.task, _BEST_METRICS[self.task]
        best = self.eval.best_metric
        wanted = f"one of {', '.join(map(repr, metrics))} if {path}.task={task!r}"
        require(best in metrics, f"{path}.eval.best_metric", best, wanted, "choose one of them")
        name, dataset = f"{path}.data.dataset", self.data.dataset
        wanted = f"'hbi' if {path}.task={task!r}"
        good = task == "retrieval" or self.model.method == "hbi"
        require(good, f"{path}.model.method", self.model.method, wanted, "choose it, or task='retrieval'")
        wanted = f"one of {', '.join(map(repr, QUESTIONS))}, which have questions, if {path}.task='answers'"
        require(task != "answers" or dataset in QUESTIONS, name, dataset, wanted, "choose one of them")
        wanted = f"a data set of captions, such as 'msrvtt_caption', if {path}.task='captions'"
        require(task != "captions" or dataset not in QUESTIONS, name, dataset, wanted, "choose one")
        fits = task != "estimator" or not self.data.cache_features
        wanted = f"False if {path}.task='estimator', which encodes its data itself"
        require(fits, f"{path}.data.cache_features", True, wanted, "turn it off")
        data = self.data
        good = self.model.padding == "masked" or not (data.cache_features and data.sampling == "segments")
        wanted = f"False if {path}.data.sampling='segments' and {path}.model.padding='published'"
        require(good, f"{path}.data.cache_features", True, wanted, "turn it off")
        wanted = f"1 or more if {path}.loss.motion_weight is above 0: frames see one another there"
        good = task != "retrieval" or not self.loss.motion_weight or self.model.frame_layers > 0
        require(good, f"{path}.model.frame_layers", self.model.frame_layers, wanted, "raise it, or set the weight to 0")
        normalize = self.eval.normalize
        fits = task == "retrieval" or not normalize
        wanted = f"() if {path}.task={task!r}: only retrieval similarities are normalised"
        require(fits, f"{path}.eval.normalize", normalize, wanted, "empty it")

    def _validate_tokens(self, path: str) -> None:
        """Checks that texts and videos fit into the model."""
        model, data, either = self.model, self.data, "change one of them"
        wanted = f"3 to {path}.model.clip.context_length={model.clip.context_length}"
        fits = 3 <= data.num_words <= model.clip.context_length
        require(fits, f"{path}.data.num_words", data.num_words, wanted, either)
        wanted = f"at most {path}.data.num_words={data.num_words}, the longest text in training"
        longest = self.captions.max_words
        fits = self.task != "captions" or longest <= data.num_words
        require(fits, f"{path}.captions.max_words", longest, wanted, either)
        wanted = f"1 to {path}.model.max_frames={model.max_frames}"
        fits = 1 <= data.num_frames <= model.max_frames
        require(fits, f"{path}.data.num_frames", data.num_frames, wanted, either)
        wanted = f"a divisor of {path}.data.num_frames={data.num_frames}"
        fits = data.num_frames % model.frame_portions == 0
        require(fits, f"{path}.model.frame_portions", model.frame_portions, wanted, either)

    def _validate_levels(self, path: str) -> None:
        """Checks the cluster counts, rates and distillation paths of the levels."""
        levels, pooled = self.model.levels, self.model.pooled
        for side in ("words", "frames"):
            # Pooling leaves one token per side before the first level.
            tokens = 1 if pooled else getattr(self.data, f"num_{side}")
            more = f"turn {path}.model.pooled off" if pooled else f"raise {path}.data.num_{side}"
            for row, level in enumerate(levels):
                count, wanted = getattr(level, side), f"at most the {tokens} {side} of the level before"
                name = f"{path}.model.levels[{row}] ({level.name}) {side}"
                require(0 <= count <= tokens, name, count, wanted, f"use a count <= {tokens} or {more}")
                tokens = count or tokens
        self._validate_global(path)
        names, rates = [level.name for level in levels], self.eval.level_rates
        for pair in self.loss.distillation_paths:
            wanted = f"(teacher, student), two different of the levels {names}"
            good = set(pair) <= set(names) and pair[0] != pair[1]
            require(good, f"{path}.loss.distillation_paths", pair, wanted, "correct it")
        wanted = f"one rate for each of the levels {names}, not all 0"
        example = f"write for instance {(1.0,) + (0.0,) * (len(names) - 1)}"
        good = len(rates) == len(names) and any(rates) and all(map(math.isfinite, rates))
        require(good, f"{path}.eval.level_rates", rates, wanted, example)

    def _validate_global(self, path: str) -> None:
        """Checks what the losses on global vectors need: retrieval, one token a side at the last level, two views."""
        loss, last = self.loss, self.model.levels[-1]
        for name, is_on in (("denoising", loss.denoising), ("margin_weight", bool(loss.margin_weight))):
            value, off = getattr(loss, name), "turn it off"
            wanted = f"{type(value)()!r} if {path}.task={self.task!r}"
            require(not is_on or self.task == "retrieval", f"{path}.loss.{name}", value, wanted, off)
            is_global = self.model.pooled or (last.words, last.frames) == (1, 1)
            wanted = (
                f"{type(value)()!r} if the last of {path}.model.levels is {tuple(last)!r}, not one word and one frame"
            )
            remedy = f"end the levels with one such as ('video', 1, 1), or {off}"
            require(not is_on or is_global, f"{path}.loss.{name}", value, wanted, remedy)
        wanted = f"False if {path}.data.num_views={self.data.num_views}"
        remedy = f"set {path}.data.num_views=2 and {path}.data.sampling='segments'"
        good = not loss.denoising or self.data.num_views == 2
        require(good, f"{path}.loss.denoising", loss.denoising, wanted, remedy)


def to_json(config: Config) -> str:
    """Returns the configuration as JSON that `read_config` can read."""
    return json.dumps(fields.plain(config), indent=2) + "\n"


def read_config(path: str | os.PathLike[str]) -> Config:
    """Reads the `config.json` of a work folder. Fields added since then get their defaults.

    Raises:
      OSError, ValueError: If the file cannot be read or is not a configuration.
    """
    with open(path, encoding="utf-8") as file:
        values = json.load(file)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}: wanted an object of fields; give another file")
    if isinstance(values.get("model"), dict):
        values["model"] = of_earlier_versions(values["model"])
    return fields.parse(Config, values, "config")
