"""Teachers of the prediction header: functions from an alignment to logits of the interaction."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Key, PyTree

from hbi_jax import banzhaf
from hbi_jax.banzhaf.estimator import InteractionNet
from hbi_jax.choices import Padding
from hbi_jax.losses import standardize
from hbi_jax.types import Alignment, Match

# Teachers read the matched pairs of a level.
Pairs = Alignment | Match
# Maps the matched pairs of a level and a key to the scaled logits of the teacher's distributions, `[b, t, v]`.
Teacher = Callable[[Pairs, Key[Array, ""]], Float[Array, "b t v"]]


def exact_teacher(scale: float) -> Teacher:
    """Returns a teacher that computes the exact Banzhaf interaction of the matched pairs, times `scale`."""

    def teach(pairs: Pairs, key: Key[Array, ""]) -> Float[Array, "b t v"]:
        del key
        return scale * banzhaf.interaction(
            pairs.pair_similarity,
            pairs.text.logits,
            pairs.video.logits,
            pairs.text.mask,
            pairs.video.mask,
        )

    return teach


def sampled_teacher(scale: float, num_samples: int) -> Teacher:
    """Returns a teacher that samples `num_samples` coalitions of each matched pair; its logits are scaled by `scale`.

    The samples of a row depend on the key and the row's position in the global batch, not on the devices.
    """

    def teach(pairs: Pairs, key: Key[Array, ""]) -> Float[Array, "b t v"]:
        game = (
            pairs.pair_similarity,
            pairs.text.logits,
            pairs.video.logits,
            pairs.text.mask,
            pairs.video.mask,
        )
        # The teacher is not trained, so there is no backward pass through the samples.
        return scale * banzhaf.sample_similarity(*jax.lax.stop_gradient(game), key, num_samples)

    return teach


def standardized(teacher: Teacher, temperature: float) -> Teacher:
    """Returns a teacher whose logits have mean 0 and standard deviation `1 / temperature` over the cells of each pair.

    Interactions shrink with the number of tokens, so logits of a fixed scale are nearly uniform for many tokens and
    nearly one-hot for few. A pair whose interactions are all equal gets logits of 0. Padded cells get 0.
    """

    def teach(pairs: Pairs, key: Key[Array, ""]) -> Float[Array, "b t v"]:
        cells = pairs.text.mask[:, :, None] & pairs.video.mask[:, None, :]
        return standardize(teacher(pairs, key), cells) / temperature

    return teach


def estimator_teacher(net: InteractionNet, params: PyTree, padding: Padding = "masked") -> Teacher:
    """Returns a teacher that applies a pre-trained estimator to the similarities of the matched pairs.

    There is no `scale`, because the estimator was trained on scaled values.

    Args:
      net: The network.
      params: Its variables, `{"params": ...}`; they stay fixed.
      padding: Padding mode of the model; with `published`, padded cells are treated like real ones.
    """

    def teach(pairs: Pairs, key: Key[Array, ""]) -> Float[Array, "b t v"]:
        del key
        cells = pairs.text.mask[:, :, None] & pairs.video.mask[:, None, :] if padding == "masked" else None
        return net.apply(params, jax.lax.stop_gradient(pairs.pair_similarity), cells)

    return teach
