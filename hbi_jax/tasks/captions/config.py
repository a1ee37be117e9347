"""The fields of task=captions: `config.captions`, and its part of `config.loss`."""

import dataclasses
from typing import Literal

from hbi_jax.fields import field, require
from hbi_jax.models.config import Decoding
from hbi_jax.train.config import AlignmentLossConfig

BEST_METRICS = ("CIDEr", "ROUGE-L", "BLEU-4", "first_event/accuracy", "all_events/accuracy")


@dataclasses.dataclass(frozen=True)
class CaptionsConfig(Decoding):
    """The decoder, its training, and decoding."""

    decoder_layers: int = field(1, "Layers of the caption decoder.", at_least=1)
    dropout_rate: float = field(0.1, "Dropout rate of the decoder's sublayer outputs.", share=True)
    vocabulary: Literal["clip", "training"] = field(
        "clip",
        "Tokens that captions may contain. clip: CLIP's whole vocabulary of 49,408. training: the tokens of the "
        "training texts, which makes decoding and training cheaper.",
    )
    references_per_video: int = field(
        1,
        "Captions per video in a training row: the row's own and others of the same video. The video is decoded and "
        "encoded once for all of them.",
        at_least=1,
    )

    def validate(self, path: str) -> None:
        """Checks that a caption can hold at least one word."""
        require(self.max_words >= 3, f"{path}.max_words", self.max_words, "3 or more", "raise it")


@dataclasses.dataclass(frozen=True)
class CaptionLossConfig(AlignmentLossConfig):
    """The losses of task=captions."""

    caption_weight: float = field(
        3.3, "For task=captions: lambda of Eq. 16, the weight of the captions' cross-entropy.", at_least=0
    )
    label_smoothing: float = field(
        0.0, "For task=captions: share of every target that is spread evenly over the vocabulary.", share=True
    )
