"""The losses of HBI: contrastive (Eq. 13), interaction (Eq. 8) and distillation between levels (Eq. 15).

Every loss takes masks; a masked row or class takes no part in numerator, denominator or gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Finite, so that a row without a real class gives no NaN; far below any logit.
_ABSENT = -1e30


def masked_log_softmax(logits: Float[Array, "*b n"], mask: Bool[Array, "*#b n"]) -> Float[Array, "*b n"]:
    """Log-softmax over the entries where `mask` is True, in float32; meaningless elsewhere."""
    return jax.nn.log_softmax(jnp.where(mask, logits.astype(jnp.float32), _ABSENT), axis=-1)


def masked_mean(x: Float[Array, "*b"], mask: Bool[Array, "*b"]) -> Float[Array, ""]:
    """Mean over the entries where `mask` is True; 0 where there are none."""
    return jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(jnp.sum(mask), 1)


def kl_divergence(
    student_logits: Float[Array, "*b n"],
    teacher_logits: Float[Array, "*b n"],
    mask: Bool[Array, "*#b n"],
) -> Float[Array, "*b"]:
    """KL(student || teacher) of two softmax distributions over the real classes of each row, in nats."""
    student = masked_log_softmax(student_logits, mask)
    teacher = masked_log_softmax(teacher_logits, mask)
    return jnp.sum(jnp.where(mask, jnp.exp(student) * (student - teacher), 0), axis=-1)


def negatives_mask(
    video_index: Int[Array, " b"], example_mask: Bool[Array, " b"], mask_same_video: bool = True
) -> Bool[Array, "b b"]:
    """Which columns count in the softmax of each row: the row's own, and every real row of another video.

    Args:
      video_index: Number of each row's video; rows that share it are two captions of one video.
      example_mask: False at rows that stand for nothing.
      mask_same_video: False makes two captions of one video each other's negatives, as the published code does.
    """
    own = jnp.eye(video_index.shape[0], dtype=bool)
    other = jnp.ones_like(own)
    if mask_same_video:
        other = video_index[:, None] != video_index[None, :]
    return own | (other & example_mask[None, :])


def contrastive_loss(
    logits: Float[Array, "b b"], mask: Bool[Array, "b b"], example_mask: Bool[Array, " b"]
) -> Float[Array, ""]:
    """Symmetric cross-entropy of the matched pairs, the mean of both directions (HBI V2, Eq. 13), in nats.

    Args:
      logits: Similarity times the inverse temperature; texts by videos, matches on the diagonal.
      mask: Which entries take part in the softmax, see `negatives_mask`; symmetric but for masked rows.
      example_mask: False at rows to leave out.
    """
    text_to_video = -jnp.diagonal(masked_log_softmax(logits, mask))
    video_to_text = -jnp.diagonal(masked_log_softmax(logits.T, mask))
    return 0.5 * (masked_mean(text_to_video, example_mask) + masked_mean(video_to_text, example_mask))


def interaction_loss(
    prediction: Float[Array, "b t v"],
    interaction: Float[Array, "b t v"],
    text_mask: Bool[Array, "b t"],
    video_mask: Bool[Array, "b v"],
) -> Float[Array, ""]:
    """Prediction header against Banzhaf interaction of the matched pairs (HBI V2, Eq. 6 to 8), in nats.

    The sum of two mean divergences: over words for each real frame, and over frames for each real word.

    Args:
      prediction: Logits of the header.
      interaction: Teacher logits, the scaled interaction; no gradient flows into it.
      text_mask, video_mask: Real tokens; clear both where a row stands for nothing.
    """
    interaction = jax.lax.stop_gradient(interaction)
    over_frames = kl_divergence(prediction, interaction, video_mask[:, None, :])
    over_words = kl_divergence(jnp.swapaxes(prediction, 1, 2), jnp.swapaxes(interaction, 1, 2), text_mask[:, None, :])
    return masked_mean(over_words, video_mask) + masked_mean(over_frames, text_mask)


def distillation_loss(
    student: Float[Array, "b b"],
    teacher: Float[Array, "b b"],
    mask: Bool[Array, "b b"],
    example_mask: Bool[Array, " b"],
    temperature: float = 1.0,
) -> Float[Array, ""]:
    """One level's similarities against another's (HBI V2, Eq. 15), in nats.

    The sum of both directions' mean KL(student || teacher); no gradient flows into the teacher.

    Args:
      student, teacher: Unscaled similarities, texts by videos.
      mask: Which entries take part, see `negatives_mask`.
      example_mask: False at rows to leave out.
      temperature: Divides both similarities; 1 is the paper's equation, literally.
    """
    student, teacher = student / temperature, jax.lax.stop_gradient(teacher) / temperature
    text_to_video = kl_divergence(student, teacher, mask)
    video_to_text = kl_divergence(student.T, teacher.T, mask)
    return masked_mean(text_to_video, example_mask) + masked_mean(video_to_text, example_mask)
