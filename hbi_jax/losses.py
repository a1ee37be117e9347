"""The losses of HBI: contrastive (Eq. 13), interaction (Eq. 8), distillation (Eq. 15), answers and captions.

Also those of HCMI: label denoising for the contrastive loss, and the margin to the hardest negatives (docs/hcmi.md).

Every loss takes masks. Masked rows and classes do not enter the numerator, the denominator or the gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hbi_jax.choices import Divergence

# Far below any logit, but finite, so that a row without a real class does not become NaN.
_ABSENT = -1e30
# The share of the largest value that float32 cannot tell from 0 in interactions, which are differences.
_ROUNDING = 1e-5


def masked_log_softmax(logits: Float[Array, "*b n"], mask: Bool[Array, "*#b n"]) -> Float[Array, "*b n"]:
    """Returns the log-softmax over the entries where `mask` is True, in float32; other entries are meaningless."""
    return jax.nn.log_softmax(jnp.where(mask, logits.astype(jnp.float32), _ABSENT), axis=-1)


def masked_mean(x: Float[Array, "*b"], mask: Bool[Array, "*b"]) -> Float[Array, ""]:
    """Returns the mean over the entries where `mask` is True; 0 if there are none."""
    return jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(jnp.sum(mask), 1)


def kl_divergence(
    student_logits: Float[Array, "*b n"],
    teacher_logits: Float[Array, "*b n"],
    mask: Bool[Array, "*#b n"],
) -> Float[Array, "*b"]:
    """Returns KL(student || teacher) of the softmax distributions over the real classes of each row, in nats."""
    student = masked_log_softmax(student_logits, mask)
    teacher = masked_log_softmax(teacher_logits, mask)
    return jnp.sum(jnp.where(mask, jnp.exp(student) * (student - teacher), 0), axis=-1)


def published_divergence(
    student_logits: Float[Array, "*b n"], teacher_logits: Float[Array, "*b n"], mask: Bool[Array, "*b n"]
) -> Float[Array, ""]:
    """Returns KL(teacher || student), averaged over all real elements, classes included, as in the published code.

    Gradients flow into the teacher too.
    """
    return jnp.sum(kl_divergence(teacher_logits, student_logits, mask)) / jnp.maximum(jnp.sum(mask), 1)


def negatives_mask(
    video_index: Int[Array, " b"], example_mask: Bool[Array, " b"], mask_same_video: bool = True
) -> Bool[Array, "b b"]:
    """Returns which columns enter the softmax of each row: the row's own, and every real row of another video.

    Args:
      video_index: Index of each row's video; rows with the same index are captions of one video.
      example_mask: False at masked rows.
      mask_same_video: If False, captions of one video are each other's negatives, as in the published code.
    """
    own = jnp.eye(video_index.shape[0], dtype=bool)
    other = jnp.ones_like(own)
    if mask_same_video:
        other = video_index[:, None] != video_index[None, :]
    return own | (other & example_mask[None, :])


def denoised_positives(
    first: Float[Array, "b d"], second: Float[Array, "b d"], mask: Bool[Array, "b b"]
) -> Bool[Array, "b b"]:
    """Returns which texts (rows) and videos (columns) belong together by HCMI's adaptive label denoising.

    Text `i` also belongs to video `j` if videos `i` and `j` are as similar as two views of video `i`: if the mean of
    the four cosines of their views is at least the cosine of the views of `i`. Matched pairs always belong together. No
    gradient flows through the decision, which is Boolean.

    Args:
      first, second: The vectors of two views of each row's video, of length 1.
      mask: Pairs that may be found, from `negatives_mask`.
    """
    # The mean of the four cosines is the inner product of the means of the views.
    mean = 0.5 * (first + second)
    own = jnp.sum(first * second, axis=-1)
    found = jnp.matmul(mean, mean.T, precision="highest") >= own[:, None]
    return jnp.eye(len(first), dtype=bool) | (found & mask)


def matched(pairs: Float[Array, "b b"]) -> Float[Array, " b"]:
    """Returns the diagonal; taken like this, rows on several devices are not gathered."""
    return jnp.sum(jnp.where(jnp.eye(len(pairs), dtype=bool), pairs, 0), axis=-1)


def contrastive_loss(
    logits: Float[Array, "b b"],
    mask: Bool[Array, "b b"],
    example_mask: Bool[Array, " b"],
    positives: Bool[Array, "b b"] | None = None,
) -> Float[Array, ""]:
    """Returns the symmetric cross-entropy of the matched pairs, the mean of both directions (HBI V2, Eq. 13), in nats.

    Args:
      logits: Similarity times the inverse temperature, texts by videos; the matches are on the diagonal.
      mask: Entries that enter the softmax, from `negatives_mask`; symmetric except at masked rows.
      example_mask: False at rows to leave out.
      positives: Pairs that belong together, from `denoised_positives`; the targets of a row are uniform over them.
        None: the matched pairs.
    """

    def cross_entropy(logits: Float[Array, "b b"], positives: Bool[Array, "b b"] | None) -> Float[Array, " b"]:
        log_probability = masked_log_softmax(logits, mask)
        if positives is None:
            return -matched(log_probability)
        positives = positives & mask
        return -jnp.sum(jnp.where(positives, log_probability, 0), axis=-1) / jnp.sum(positives, axis=-1)

    text_to_video = cross_entropy(logits, positives)
    video_to_text = cross_entropy(logits.T, None if positives is None else positives.T)
    return 0.5 * (masked_mean(text_to_video, example_mask) + masked_mean(video_to_text, example_mask))


def margin_loss(
    similarity: Float[Array, "b b"],
    mask: Bool[Array, "b b"],
    example_mask: Bool[Array, " b"],
    margin: float,
    positives: Bool[Array, "b b"] | None = None,
) -> Float[Array, ""]:
    """Returns the margin loss of the hardest negative of each text and each video, the mean of both directions (HCMI).

    A row without negatives has loss 0.

    Args:
      similarity: Cosines of the global vectors, texts by videos; the matches are on the diagonal.
      mask: Entries that may be negatives, and the row's own, from `negatives_mask`.
      example_mask: False at rows to leave out.
      margin: By how much the match is to exceed the hardest negative.
      positives: Pairs that belong together, from `denoised_positives`, which are no negatives. None: the matched pairs.
    """
    own = matched(similarity)
    positives = jnp.eye(len(similarity), dtype=bool) if positives is None else positives

    def violation(similarity: Float[Array, "b b"], positives: Bool[Array, "b b"]) -> Float[Array, " b"]:
        negatives = mask & ~positives
        hardest = jnp.max(jnp.where(negatives, similarity, _ABSENT), axis=-1)
        return jnp.where(negatives.any(axis=-1), jax.nn.relu(hardest - own + margin), 0)

    text_to_video, video_to_text = violation(similarity, positives), violation(similarity.T, positives.T)
    return 0.5 * (masked_mean(text_to_video, example_mask) + masked_mean(video_to_text, example_mask))


def motion_loss(
    moving: Float[Array, " b"], still: Float[Array, " b"], scale: Float[Array, ""], example_mask: Bool[Array, " b"]
) -> Float[Array, ""]:
    """Returns the cross-entropy of telling matched videos from the same frames without motion, in nats.

    This is not from the papers. The frames of one video show what is there; only frames that see their neighbours show
    what happens. A text that tells what happens is to match the latter better.

    Args:
      moving: Similarity of each text with its video.
      still: The same if each frame sees itself alone.
      scale: Inverse temperature.
      example_mask: False at rows to leave out.
    """
    return masked_mean(jax.nn.softplus(scale * (still - moving)), example_mask)


def interaction_loss(
    prediction: Float[Array, "b t v"],
    interaction: Float[Array, "b t v"],
    text_mask: Bool[Array, "b t"],
    video_mask: Bool[Array, "b v"],
    divergence: Divergence = "paper",
) -> Float[Array, ""]:
    """Returns the divergence between prediction header and Banzhaf interaction (HBI V2, Eq. 6 to 8), in nats.

    The loss is the sum of two mean divergences of the matched pairs: over words for each real frame, and over frames
    for each real word. With `published`, the second divergence is over the batch, for each frame and word, and padded
    cells are classes with logit 0.

    Args:
      prediction: Logits of the header.
      interaction: Logits of the teacher, the scaled interaction; no gradient flows into it.
      text_mask, video_mask: Real tokens; both False everywhere at masked rows.
      divergence: The form of the divergence.
    """
    interaction = jax.lax.stop_gradient(interaction)
    if divergence == "published":
        cells = text_mask[:, :, None] & video_mask[:, None, :]
        prediction, interaction = jnp.where(cells, prediction, 0), jnp.where(cells, interaction, 0)
        rows = jnp.broadcast_to(cells.any(axis=(1, 2), keepdims=True), cells.shape)
        return published_divergence(prediction, interaction, rows) + published_divergence(
            prediction.T, interaction.T, rows.T
        )
    over_frames = kl_divergence(prediction, interaction, video_mask[:, None, :])
    over_words = kl_divergence(jnp.swapaxes(prediction, 1, 2), jnp.swapaxes(interaction, 1, 2), text_mask[:, None, :])
    return masked_mean(over_words, video_mask) + masked_mean(over_frames, text_mask)


def standardize(grid: Float[Array, "b t v"], cells: Bool[Array, "b t v"]) -> Float[Array, "b t v"]:
    """Returns the values of each pair with mean 0 and variance 1 over its cells; 0 elsewhere, and if all are equal.

    Values are equal if they differ by no more than rounding: scaled to variance 1, that would be noise.
    """

    def mean(values: Float[Array, "b t v"]) -> Float[Array, "b 1 1"]:
        total = jnp.sum(jnp.where(cells, values, 0), axis=(1, 2), keepdims=True)
        return total / jnp.maximum(jnp.sum(cells, axis=(1, 2), keepdims=True), 1)

    centred = jnp.where(cells, grid - mean(grid), 0)
    variance = mean(centred**2)
    largest = jnp.max(jnp.where(cells, jnp.abs(grid), 0), axis=(1, 2), keepdims=True)
    differ = variance > (_ROUNDING * largest) ** 2
    return jnp.where(differ, centred / jnp.sqrt(jnp.where(differ, variance, 1)), 0)


def concentration_loss(
    interaction: Float[Array, "b t v"], text_mask: Bool[Array, "b t"], video_mask: Bool[Array, "b v"]
) -> Float[Array, ""]:
    """Returns how evenly the words of matched pairs are spread over frames: 1 if evenly, 0 if each has one frame.

    A word's distribution over the real frames is the softmax of its interactions, standardised within the pair. The
    loss is the mean entropy of these distributions, as a share of the largest possible. This is not from the papers,
    which cannot train the interaction: it needs a differentiable one.

    Args:
      interaction: Interactions of any scale; gradients flow into them.
      text_mask, video_mask: Real tokens; both False everywhere at masked rows.
    """
    cells = text_mask[:, :, None] & video_mask[:, None, :]
    log_share = masked_log_softmax(standardize(interaction, cells), video_mask[:, None, :])
    entropy = -jnp.sum(jnp.where(cells, jnp.exp(log_share) * log_share, 0), axis=-1)
    largest = jnp.log(jnp.maximum(jnp.sum(video_mask, axis=-1), 2))[:, None]
    return masked_mean(entropy / largest, text_mask)


def distillation_loss(
    student: Float[Array, "b b"],
    teacher: Float[Array, "b b"],
    mask: Bool[Array, "b b"],
    example_mask: Bool[Array, " b"],
    temperature: float = 1.0,
    divergence: Divergence = "paper",
) -> Float[Array, ""]:
    """Returns the loss that distils one level's similarities into another level (HBI V2, Eq. 15), in nats.

    The loss is the sum of the mean KL(student || teacher) in both directions. No gradient flows into the teacher,
    except with `published`.

    Args:
      student, teacher: Unscaled similarities, texts by videos.
      mask: Entries that enter the softmax, from `negatives_mask`.
      example_mask: False at rows to leave out.
      temperature: Divides both similarities; 1 gives the paper's equation as printed.
      divergence: The form of the divergence.
    """
    if divergence == "published":
        student, teacher, mask = student / temperature, teacher / temperature, mask & example_mask[:, None]
        return published_divergence(student, teacher, mask) + published_divergence(student.T, teacher.T, mask)
    student, teacher = student / temperature, jax.lax.stop_gradient(teacher) / temperature
    text_to_video = kl_divergence(student, teacher, mask)
    video_to_text = kl_divergence(student.T, teacher.T, mask)
    return masked_mean(text_to_video, example_mask) + masked_mean(video_to_text, example_mask)


def answer_cross_entropy(
    logits: Float[Array, "b n"], answer: Int[Array, " b"], example_mask: Bool[Array, " b"]
) -> Float[Array, ""]:
    """Returns the mean cross-entropy of the right answers over the real rows, in nats.

    Rows whose answer is not in the vocabulary are left out.

    Args:
      logits: One logit for each answer of the vocabulary.
      answer: Index of the right answer; -1 if it is not in the vocabulary.
      example_mask: False at rows to leave out.
    """
    right = jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32)), answer[:, None], axis=1)[:, 0]
    return masked_mean(-right, example_mask & (answer >= 0))


def caption_cross_entropy(
    logits: Float[Array, "b t n"],
    targets: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
    example_mask: Bool[Array, " b"],
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Returns the mean cross-entropy of the right tokens over the real tokens of the real rows, in nats.

    Args:
      logits: One logit for each token of the vocabulary, given the preceding tokens.
      targets: The right tokens.
      mask: True at real tokens.
      example_mask: False at rows to leave out.
      label_smoothing: Share of each target that is distributed evenly over the vocabulary.
    """
    logits = logits.astype(jnp.float32)
    right = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    wanted = (1 - label_smoothing) * right
    if label_smoothing:
        wanted += label_smoothing * logits.mean(axis=-1)
    return masked_mean(jax.nn.logsumexp(logits, axis=-1) - wanted, mask & example_mask[:, None])


def answer_distillation_loss(
    student: Float[Array, "b n"],
    teacher: Float[Array, "b n"],
    example_mask: Bool[Array, " b"],
    divergence: Divergence = "paper",
) -> Float[Array, ""]:
    """Returns the loss that distils one level's answers into another level (HBI, CVPR 2023), in nats.

    Args:
      student, teacher: Logits of the answers.
      example_mask: False at rows to leave out.
      divergence: The form of the divergence.
    """
    mask = jnp.broadcast_to(example_mask[:, None], student.shape)
    if divergence == "published":
        return published_divergence(student, teacher, mask)
    return masked_mean(kl_divergence(student, jax.lax.stop_gradient(teacher), mask), example_mask)
