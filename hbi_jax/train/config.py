"""The fields of training: `config.train`, `config.optimizer`, and the part of `config.loss` that all tasks share."""

import dataclasses
import re
from typing import Literal

from hbi_jax.choices import Divergence
from hbi_jax.fields import ConfigError, field


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The length of training, and the intervals of logs, validations and checkpoints."""

    batch_size: int = field(128, "Rows of the global batch; a multiple of the mesh's data axis.", at_least=2)
    num_steps: int = field(0, "Length of the run in steps; 0: num_epochs determines it.", at_least=0)
    num_epochs: int = field(5, "Length of the run in epochs over the training texts, if num_steps is 0.", at_least=0)
    log_every: int = field(50, "Steps between two log rows.", at_least=1)
    eval_every: int = field(500, "Steps between two validations; 0: only at the end.", at_least=0)
    checkpoint_every: int = field(500, "Steps between two checkpoints.", at_least=1)
    keep: int = field(2, "Number of latest checkpoints to keep, besides the best one.", at_least=1)
    skip_nonfinite: int = field(
        0,
        "Number of steps that a run may skip because their loss, gradient or update is not finite; one more stops the "
        "run. Above 0, a step needs memory for a second state.",
        at_least=0,
    )

    stall_minutes: float = field(
        30.0,
        "Minutes without progress (a step, or a batch of a validation) after which the run ends with stack traces of "
        "all threads, because something hangs; 0: never.",
        at_least=0,
    )

    def length(self, num_rows: int) -> int:
        """Returns the number of steps, given the `num_rows` rows of an epoch."""
        return self.num_steps or max(1, round(self.num_epochs * num_rows / self.batch_size))

    def validate(self, path: str) -> None:
        """Checks that the run has a length."""
        if not (self.num_steps or self.num_epochs):
            raise ConfigError(
                f"{path}.num_epochs={self.num_epochs}: wanted 1 or more if {path}.num_steps is 0; raise one of them"
            )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    name: Literal["adamw", "muon", "bert_adam"] = field(
        "adamw",
        "The optimizer. muon orthogonalises the updates of matrices, uses the learning rates of adamw or a few times "
        "larger ones, and needs fewer steps when training from scratch. bert_adam is the published code's optimizer: "
        "no bias correction, gradients clipped tensor by tensor, only biases exempt from decay, and a cosine over the "
        "whole run, warm-up included.",
    )
    learning_rate: float = field(1e-3, "Peak learning rate of the new modules.", at_least=0)
    clip_learning_rate: float = field(1e-7, "Peak learning rate of CLIP's towers.", at_least=0)
    warmup_rate: float = field(
        0.1, "Share of the steps with linear warm-up; afterwards the rate decays to 0 as a cosine.", share=True
    )
    schedule_share: float = field(
        1.0,
        "Length of the schedule as a share of the run. Below 1, the cosine of bert_adam rises again after its end, as "
        "in the published runs of ten epochs.",
        above=0,
    )
    weight_decay: float = field(
        0.2,
        "Decoupled weight decay; biases, norms, position and class embeddings, and scalars are exempt.",
        at_least=0,
    )
    b1: float = field(0.9, "Decay of the first moment.", share=True)
    b2: float = field(0.98, "Decay of the second moment.", share=True)
    eps: float = field(1e-6, "Added to the root of the second moment.", above=0)
    clip_norm: float = field(1.0, "Gradients are clipped to this global norm.", above=0)
    frozen: tuple[str, ...] = field(
        (), 'Regular expressions for the names of frozen parameters, such as "vision_tower/patch_embedding".'
    )
    max_logit_scale: float = field(100.0, "Upper bound of exp(logit_scale).", above=0)

    def validate(self, path: str) -> None:
        """Checks that the patterns of `frozen` are regular expressions."""
        for pattern in self.frozen:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(
                    f"{path}.frozen has {pattern!r}: wanted a regular expression ({error}); correct it"
                ) from error


@dataclasses.dataclass(frozen=True)
class AlignmentLossConfig:
    """The alignment losses that all tasks share (Eq. 14 and 16), and the teacher of the interaction."""

    interaction_weight: float = field(
        1.0, "alpha of Eq. 14: weight of the interaction loss. 0: the interaction is not computed.", at_least=0
    )
    concentration_weight: float = field(
        0.0,
        "Weight of a loss on the interaction itself, at the first level: the entropy over frames of each word's "
        "interactions, which are standardised within the pair. 0: none, as in the papers.",
        at_least=0,
    )
    distillation_weight: float = field(1.0, "beta of Eq. 16: weight of the distillation between levels.", at_least=0)
    distillation_paths: tuple[tuple[str, str], ...] = field(
        (),
        'Pairs of teacher and student level, such as (("entity", "action"), ("action", "event")). Empty: the first '
        "level is the teacher of all others (Table VII).",
    )
    teacher: Literal["exact", "sampled", "estimator"] = field(
        "exact",
        "Source of the interaction. exact: closed form. sampled: Monte Carlo. estimator: a pre-trained network.",
    )
    num_samples: int = field(1000, "Coalitions that teacher=sampled draws for each pair in every step.", at_least=2)
    estimator: str = field(
        "", "Weights of teacher=estimator: a work folder of configs/estimator.py, or a converted folder."
    )
    interaction_scale: float = field(
        1000.0,
        "The teacher's logits are the interaction times this factor, if teacher_temperature is 0; the labels of "
        "task=estimator always are.",
        above=0,
    )
    teacher_temperature: float = field(
        0.0,
        "Above 0, each pair's interactions are standardised to mean 0 and variance 1 over its words and frames, then "
        "divided by this temperature, so that one temperature serves every number of tokens. 0: interaction_scale, as "
        "in the papers.",
        at_least=0,
    )
    distillation_temperature: float = field(
        1.0, "Divides both similarities in the distillation; 1 gives the paper's equation.", above=0
    )
    mask_same_video: bool = field(True, "Captions of the same video in a batch are not each other's negatives.")
    divergence: Divergence = field(
        "paper",
        "Form of the divergences in the interaction and distillation losses. paper: KL(student || teacher), averaged "
        "over rows, without gradient to the teacher. published: as in the published code (docs/differences.md).",
    )
    denoising: bool = field(
        False,
        "With task=retrieval: adaptive label denoising (HCMI). A text also belongs to another video of the batch that "
        "is as similar to its own as two views of its own are; needs data.num_views=2 and a last level of one word and "
        "one frame.",
    )
    motion_weight: float = field(
        0.0,
        "With task=retrieval: weight of a loss that is not from the papers, at the first level: a text is to match its "
        "video better than the same frames without motion, each of which sees itself alone in the temporal "
        "transformer. 0: it is not computed.",
        at_least=0,
    )
    margin_weight: float = field(
        0.0,
        "With task=retrieval: weight of the margin loss of the hardest negatives at the last level (HCMI), which needs "
        "one word and one frame. 0: it is not computed. The weight 1 of configs/hcmi_*.py is not published; ours.",
        at_least=0,
    )
    margin: float = field(
        0.2,
        "theta, by how much the cosine of a matched pair is to exceed that of its hardest negative. Not published; "
        "ours.",
        at_least=0,
        at_most=2,
    )
    alignment_weight: float = field(
        1.0,
        "With task=answers: weight of every level's contrastive and interaction loss. With task=captions: weight of "
        "all terms except the caption loss, distillation included (0: they are not computed). task=retrieval does not "
        "use it.",
        at_least=0,
    )
