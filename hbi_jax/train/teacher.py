"""Where the interaction that teaches the prediction header comes from: a teacher is a function of an alignment."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Key, PyTree

from hbi_jax import banzhaf
from hbi_jax.banzhaf.estimator import InteractionNet
from hbi_jax.choices import Padding
from hbi_jax.types import Alignment

# From the matched pairs of a level and a key to the logits of the teacher's distributions, scaled; `[b, t, v]`.
Teacher = Callable[[Alignment, Key[Array, ""]], Float[Array, "b t v"]]


def exact_teacher(scale: float) -> Teacher:
    """The exact Banzhaf interaction of the matched pairs, times `scale`."""

    def teach(alignment: Alignment, key: Key[Array, ""]) -> Float[Array, "b t v"]:
        del key
        return scale * banzhaf.interaction(
            alignment.pair_similarity,
            alignment.text.logits,
            alignment.video.logits,
            alignment.text.mask,
            alignment.video.mask,
        )

    return teach


def sampled_teacher(scale: float, num_samples: int) -> Teacher:
    """The interaction of the matched pairs by sampling `num_samples` coalitions of each, times `scale`.

    What a row draws depends on the key and its place in the global batch, not on the devices.
    """

    def teach(alignment: Alignment, key: Key[Array, ""]) -> Float[Array, "b t v"]:
        game = (
            alignment.pair_similarity,
            alignment.text.logits,
            alignment.video.logits,
            alignment.text.mask,
            alignment.video.mask,
        )
        # Teachers are not trained: no backward pass through the samples.
        return scale * banzhaf.sample_similarity(*jax.lax.stop_gradient(game), key, num_samples)

    return teach


def estimator_teacher(net: InteractionNet, params: PyTree, padding: Padding = "masked") -> Teacher:
    """What a pre-trained estimator makes of the matched pairs' similarities; it was trained on scaled values.

    Args:
      net: The network.
      params: Its variables, `{"params": ...}`; they are not trained any further.
      padding: That of the model; with `published`, padded cells are cells like others.
    """

    def teach(alignment: Alignment, key: Key[Array, ""]) -> Float[Array, "b t v"]:
        del key
        cells = alignment.text.mask[:, :, None] & alignment.video.mask[:, None, :] if padding == "masked" else None
        return net.apply(params, jax.lax.stop_gradient(alignment.pair_similarity), cells)

    return teach
