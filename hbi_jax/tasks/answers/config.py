"""The fields of task=answers: `config.answers`, and its part of `config.loss`."""

import dataclasses
from typing import Literal

from hbi_jax.fields import field
from hbi_jax.train.config import AlignmentLossConfig

BEST_METRICS = ("accuracy", "in_vocabulary/accuracy")


@dataclasses.dataclass(frozen=True)
class AnswersConfig:
    """The answers, and how questions are asked."""

    vocabulary: str = field(
        "",
        "File of the annotation folder with the answers to choose among, {answer: number}. Empty: the answers of the "
        "training split.",
    )
    top_answers: int = field(0, "The most frequent training answers that are kept; 0: all.", at_least=0)
    min_count: int = field(1, "Training answers that occur less often are dropped.", at_least=1)
    questions_per_video: int = field(
        1,
        "Questions that training asks about a video at a time: the row's own and others of the same video. The video "
        "is decoded and encoded once for all of them.",
        at_least=1,
    )
    dropout_rate: float = field(0.1, "Share of the answer heads' inputs that training drops.", share=True)
    question_only: bool = field(
        False, "Train a model that never sees a frame, to measure what the questions alone give away."
    )


@dataclasses.dataclass(frozen=True)
class AnswerLossConfig(AlignmentLossConfig):
    """The losses of task=answers."""

    answer_weight: float = field(
        2.5, "Of task=answers: lambda of Eq. 16, the weight of every level's cross-entropy.", at_least=0
    )
    distil: Literal["similarity", "answers"] = field(
        "similarity",
        "Of task=answers: what the coarser levels learn from the finest, its similarity of question and video (HBI V2) "
        "or its answers (HBI, CVPR 2023).",
    )
