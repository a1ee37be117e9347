"""The objective of retrieval: the alignment losses, one on motion, and those of HCMI on global vectors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree

from hbi_jax import losses
from hbi_jax.models.hbi import HBI
from hbi_jax.models.similarity import matched_wti, normalize, pair_similarity
from hbi_jax.train.alignment import Term, alignment_terms, gate_means, total
from hbi_jax.train.config import AlignmentLossConfig
from hbi_jax.train.step import Scalars
from hbi_jax.train.teacher import Teacher
from hbi_jax.types import Alignment, Batch, WeightedTokens


def retrieval_loss(
    model: HBI, config: AlignmentLossConfig, teacher: Teacher, params: PyTree, batch: Batch, key: Key[Array, ""]
) -> tuple[Float[Array, ""], Scalars]:
    """Returns the total loss of a global batch and its terms by name (HBI V2, Eq. 14 and 16; HCMI, docs/hcmi.md).

    Terms with weight 0 are neither computed nor returned. `key` is used by teachers that sample.

    Raises:
      ValueError: If the batch or the last level lacks what label denoising and margin need.
    """
    text = model.apply(params, batch.token_ids, batch.text_mask, method="encode_text")
    frames = model.apply(params, batch.frames, batch.frame_mask, method="frame_features")
    video = model.apply(params, frames, batch.frame_mask, method="encode_video")
    alignments = model.apply(params, text, video, method="align")
    scale = jnp.exp(params["params"]["logit_scale"])
    *_, (coarsest, last) = alignments.items()
    mask = losses.negatives_mask(batch.video_index, batch.example_mask, config.mask_same_video)
    positives, found = None, {}
    if config.denoising:
        positives, found = _denoise(model, params, batch, coarsest, last, mask)
    terms = alignment_terms(config, teacher, alignments, scale, batch, key, positives=positives)
    if config.motion_weight:
        level, alignment = next(iter(alignments.items()))
        still = model.apply(params, frames, batch.frame_mask, alone=True, method="encode_video")
        pair = model.apply(params, text, still, level, method="pair")
        cosine = pair_similarity(pair.text, pair.video)
        without = matched_wti(cosine, pair.text, pair.video, model.config.padding)
        motion = losses.motion_loss(losses.matched(alignment.similarity), without, scale, batch.example_mask)
        terms.append(Term("motion", motion, config.motion_weight, level))
    if config.margin_weight:
        _global_vector(last.text)
        _global_vector(last.video)
        margin = losses.margin_loss(last.similarity, mask, batch.example_mask, config.margin, positives)
        terms.append(Term("margin", margin, config.margin_weight))
    return total(terms, scale, gate_means(alignments, batch) | found)


def _denoise(
    model: HBI, params: PyTree, batch: Batch, level: str, alignment: Alignment, mask: Bool[Array, "b b"]
) -> tuple[Bool[Array, "b b"], Scalars]:
    """Returns the pairs that belong together, and scalars that describe them.

    The second view takes part in this decision only, so its encoder has no backward pass.
    """
    if batch.second_frames is None:
        raise ValueError(
            "config.loss.denoising needs two views of every video, but the batch has one; set config.data.num_views=2"
        )
    views = batch.second_frames, batch.second_mask
    second = model.apply(jax.lax.stop_gradient(params), *views, method="encode_video").levels[level]
    first, second = (normalize(_global_vector(tokens)) for tokens in (alignment.video, second))
    positives = losses.denoised_positives(first, second, mask)
    return positives, _describe(positives, first, second, batch)


def _global_vector(tokens: WeightedTokens) -> Float[Array, "b d"]:
    if tokens.features.shape[1] != 1:
        raise ValueError(
            f"the last level has {tokens.features.shape[1]} tokens a side, but label denoising and margin need one; "
            "end config.model.levels with a level such as ('video', 1, 1)"
        )
    return tokens.features[:, 0]


def _describe(
    positives: Bool[Array, "b b"], first: Float[Array, "b d"], second: Float[Array, "b d"], batch: Batch
) -> Scalars:
    """Returns the mean agreement of two views and the positives found per row, and how many of them are right.

    The latter only if it is known what the videos show: precision is 1 if nothing is found, recall 1 if there is
    nothing to find. Pairs of one video do not count.
    """
    rows = batch.example_mask
    other = (batch.video_index[:, None] != batch.video_index[None, :]) & rows[:, None] & rows[None, :]
    found = positives & other

    def per_row(pairs: Bool[Array, "b b"]) -> Float[Array, ""]:
        return jnp.sum(pairs) / jnp.maximum(jnp.sum(rows), 1)

    agreement = losses.masked_mean(jnp.sum(first * second, axis=-1), rows)
    scalars = {"denoising/view_cosine": agreement, "denoising/found_per_row": per_row(found)}
    if batch.scene_index is not None:
        true = (batch.scene_index[:, None] == batch.scene_index[None, :]) & other
        right = jnp.sum(found & true)
        scalars |= {
            "denoising/true_per_row": per_row(true),
            "denoising/precision": jnp.where(found.any(), right / jnp.maximum(jnp.sum(found), 1), 1.0),
            "denoising/recall": jnp.where(true.any(), right / jnp.maximum(jnp.sum(true), 1), 1.0),
        }
    return jax.lax.stop_gradient(scalars)
