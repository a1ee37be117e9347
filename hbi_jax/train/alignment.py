"""The losses that every task shares: Eq. 14 at every level, and the distillation of Eq. 16 between levels."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from hbi_jax import losses
from hbi_jax.train.config import AlignmentLossConfig
from hbi_jax.train.step import Scalars
from hbi_jax.train.teacher import Teacher, exact_teacher
from hbi_jax.types import Alignment, Batch

Kind = Literal["contrastive", "interaction", "concentration", "distillation", "motion", "margin", "answer", "caption"]


class Term(NamedTuple):
    """A term of a loss.

    Attributes:
      kind: Kind of the term.
      value: Unweighted value.
      weight: Weight of the value in the total.
      level: Name of the level; None if the term belongs to no level.
    """

    kind: Kind
    value: Float[Array, ""]
    weight: float = 1.0
    level: str | None = None

    @property
    def name(self) -> str:
        """The name of the term in the logs, such as `entity/contrastive`."""
        return self.kind if self.level is None else f"{self.level}/{self.kind}"


def alignment_terms(
    config: AlignmentLossConfig,
    teacher: Teacher,
    alignments: OrderedDict[str, Alignment],
    scale: Float[Array, ""],
    batch: Batch,
    key: Key[Array, ""],
    *,
    distil: bool = True,
    keep_padding: bool = False,
    positives: Bool[Array, "b b"] | None = None,
) -> list[Term]:
    """Returns the alignment terms of every level: contrastive, interaction and distillation of similarities.

    Args:
      config: The weights; terms with weight 0 are not computed.
      teacher: The teacher of the interaction.
      alignments: The alignment of each level, from fine to coarse.
      scale: Inverse temperature of the contrastive loss.
      batch: The global batch of these alignments.
      key: For a teacher that samples.
      distil: Whether similarities are distilled between levels.
      keep_padding: Whether the interaction loss includes padded cells, with the values of header and teacher there.
      positives: The pairs that belong together, texts by videos; None: the matched pairs.
    """
    rows = batch.example_mask
    mask = losses.negatives_mask(batch.video_index, rows, config.mask_same_video)
    finest, *coarser = alignments
    paths = config.distillation_paths or tuple((finest, name) for name in coarser)

    terms = []
    for number, (name, alignment) in enumerate(alignments.items()):
        contrastive = losses.contrastive_loss(scale * alignment.similarity, mask, rows, positives)
        terms.append(Term("contrastive", contrastive, level=name))
        if config.interaction_weight:
            interaction = losses.interaction_loss(
                alignment.pair_prediction,
                # A teacher is not trained.
                teacher(jax.lax.stop_gradient(alignment), jax.random.fold_in(key, number)),
                (alignment.text.mask | keep_padding) & rows[:, None],
                (alignment.video.mask | keep_padding) & rows[:, None],
                config.divergence,
            )
            terms.append(Term("interaction", interaction, config.interaction_weight, name))
        if config.concentration_weight and name == finest:
            grid = exact_teacher(1.0)(alignment, key)
            sides = (side.mask & rows[:, None] for side in (alignment.text, alignment.video))
            concentration = losses.concentration_loss(grid, *sides)
            terms.append(Term("concentration", concentration, config.concentration_weight, name))
        teachers = [teacher_name for teacher_name, student in paths if student == name]
        if distil and config.distillation_weight and teachers:
            distillation = sum(
                losses.distillation_loss(
                    alignment.similarity,
                    alignments[teacher_name].similarity,
                    mask,
                    rows,
                    config.distillation_temperature,
                    config.divergence,
                )
                for teacher_name in teachers
            )
            terms.append(Term("distillation", distillation, config.distillation_weight, name))
    return terms


def total(terms: Iterable[Term], scale: Float[Array, ""], others: Scalars) -> tuple[Float[Array, ""], Scalars]:
    """Returns the weighted sum of the terms, and the scalars to log: every unweighted value, and `others`."""
    loss, logged = jnp.zeros(()), {}
    for term in terms:
        loss += term.weight * term.value
        logged[f"loss/{term.name}"] = term.value
    return loss, {"loss/total": loss, "logit_scale": scale, **logged, **others}


def gate_means(alignments: OrderedDict[str, Alignment], batch: Batch) -> Scalars:
    """Returns the means of delta (words) and gamma (frames) over the real tokens of matched pairs, by level.

    These are the gates of the reconstruction (HBI V2, Fig. 9). Without reconstruction the result is empty.
    """
    out = {}
    for name, alignment in alignments.items():
        for side, tokens in (("text", alignment.text), ("video", alignment.video)):
            gate = getattr(alignment, f"{side}_gate")
            if gate is not None:
                out[f"gate/{name}/{side}"] = losses.masked_mean(gate, tokens.mask & batch.example_mask[:, None])
    return out
