"""The fields of task=answers: `config.answers`, and its part of `config.loss`."""

import dataclasses
from typing import Literal

from hbi_jax.fields import field
from hbi_jax.train.config import AlignmentLossConfig

BEST_METRICS = ("accuracy", "in_vocabulary/accuracy")


@dataclasses.dataclass(frozen=True)
class AnswersConfig:
    """The answer vocabulary, and how questions are batched."""

    vocabulary: str = field(
        "",
        "File in the annotation folder that lists the vocabulary, {answer: number}. Empty: the answers of the training "
        "split.",
    )
    top_answers: int = field(0, "Number of most frequent training answers to keep; 0: all.", at_least=0)
    min_count: int = field(1, "Drop training answers that occur less often.", at_least=1)
    questions_per_video: int = field(
        1,
        "Questions per video in a training row: the row's own and others of the same video. The video is decoded and "
        "encoded once for all of them.",
        at_least=1,
    )
    dropout_rate: float = field(0.1, "Dropout rate of the answer heads' inputs.", share=True)
    question_only: bool = field(
        False, "Train a model that never sees the frames, to measure how far the questions alone lead."
    )


@dataclasses.dataclass(frozen=True)
class AnswerLossConfig(AlignmentLossConfig):
    """The losses of task=answers."""

    answer_weight: float = field(
        2.5, "For task=answers: lambda of Eq. 16, the weight of every level's cross-entropy.", at_least=0
    )
    distil: Literal["similarity", "answers"] = field(
        "similarity",
        "For task=answers: what is distilled from the finest level into the coarser ones. similarity: the similarity "
        "of question and video (HBI V2). answers: the answers (HBI, CVPR 2023).",
    )
