"""The exact scan: weighted token-wise interaction of one query with stored clips, in one matrix product a level.

It needs no masks: padding repeats a real token with weight 0, which changes no maximum and no mean.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hbi_jax.types import ArrayLike, WeightedTokens

# Clips in a block: their products with a query stay in a CPU's caches, and few programs serve all indexes.
BLOCK = 4096
FEATURES, SCALE, WEIGHT = "features", "scale", "weight"


class Side(NamedTuple):
    """The tokens of items at one level, ready for the scan.

    Attributes:
      features: The tokens, not normalised.
      scale: The inverse of each token's length; 0 where padding counts as similarity 0 (`padding="published"`).
      weight: The weight of each token; 0 at padding, and a sum of 1.
    """

    features: Float[ArrayLike, "n k d"]
    scale: Float[ArrayLike, "n k"]
    weight: Float[ArrayLike, "n k"]


class Block(NamedTuple):
    """Clips that one call of the compiled scan scores.

    Attributes:
      clips: Their tokens by level; more rows than `count` where a block is filled up.
      count: The number of clips.
    """

    clips: Mapping[str, Side]
    count: int


class Query(NamedTuple):
    """One query: its normalised tokens and their weights at every level that scores, and the rate of each level.

    Attributes:
      words: By level.
      weights: By level.
      rates: By level; none is 0.
    """

    words: Mapping[str, Float[np.ndarray, "t d"]]
    weights: Mapping[str, Float[np.ndarray, " t"]]
    rates: Mapping[str, float]


def side(tokens: WeightedTokens, published: bool = False) -> Side:
    """Returns tokens ready for the scan, in numpy.

    Args:
      tokens: Tokens of `n` items, each with a real one.
      published: Whether padding counts as similarity 0 in maxima, see `hbi_jax.choices.Padding`.
    """
    features, mask = np.asarray(tokens.features, np.float32), np.asarray(tokens.mask)
    if not published:
        first = features[np.arange(len(mask)), mask.argmax(axis=1)]
        features = np.where(mask[..., None], features, first[:, None])
    scale = 1 / np.sqrt(np.maximum(np.square(features).sum(-1), 1e-24))
    return Side(features, np.where(mask | (not published), scale, 0).astype(np.float32), _weights(tokens))


def _weights(tokens: WeightedTokens) -> Float[np.ndarray, "n k"]:
    """Returns `hbi_jax.models.similarity.token_weights` in numpy, which compiles nothing for every number of rows."""
    logits = np.where(tokens.mask, np.asarray(tokens.logits, np.float32), -np.inf)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def sides(rows: Mapping[str, ArrayLike], levels: Sequence[str]) -> dict[str, Side]:
    """Returns stored clips, see `Encoder.rows`, ready for the scan at some levels."""
    return {level: Side(*(rows[f"{level}.{part}"] for part in Side._fields)) for level in levels}


def query(levels: Mapping[str, WeightedTokens], rates: Mapping[str, float], published: bool = False) -> Query:
    """Returns a query from the tokens of one text, or of one clip to search by example.

    Args:
      levels: The tokens by level, each with a leading axis of 1.
      rates: The rate of each level's similarity; levels of rate 0 are left out.
      published: As in `side`.
    """
    words, weights = {}, {}
    for name, rate in rates.items():
        if rate:
            ready = side(levels[name], published)
            # A real token twice changes nothing, but padding of similarity 0 does.
            used = np.asarray(levels[name].mask[0]) | published
            words[name] = (ready.features[0] * ready.scale[0][:, None])[used]
            weights[name] = ready.weight[0][used]
    return Query(words, weights, {name: rate for name, rate in rates.items() if rate})


def similarity(
    words: Float[ArrayLike, "t d"], word_weights: Float[ArrayLike, " t"], clips: Side
) -> Float[jax.Array, " n"]:
    """Returns the similarity of a query with clips at one level (HBI V2, Eq. 12); equals `models.similarity.wti`.

    Args:
      words: Normalised tokens of the query.
      word_weights: Their weights.
      clips: The clips.
    """
    # The tokens of clips are the rows of the product, so that they are read once, in the order in which they lie.
    products = jnp.einsum("nkd,td->nkt", clips.features, words, precision="highest") * clips.scale[..., None]
    best_frame, best_word = products.max(1), products.max(2)
    from_words = jnp.matmul(best_frame, word_weights, precision="highest")
    return 0.5 * (from_words + (best_word * clips.weight).sum(1))


@jax.jit
def scan(asked: Query, clips: Mapping[str, Side]) -> Float[jax.Array, " n"]:
    """Returns the similarity of a query with clips: the sum over its levels, weighted by their rates.

    It runs on the devices that hold the clips, on each with its own.
    """
    parts = [
        rate * similarity(asked.words[name], asked.weights[name], clips[name]) for name, rate in asked.rates.items()
    ]
    return sum(parts[1:], parts[0])


def scan_blocks(asked: Query, blocks: Iterable[Block]) -> Float[np.ndarray, " n"]:
    """Returns the similarity of a query with the clips of blocks."""
    asked = padded(asked)
    # Every block is dispatched before the first result is read.
    scored = [(scan(asked, block.clips), block.count) for block in blocks]
    return np.concatenate([np.zeros(0, np.float32), *(np.asarray(scores)[:count] for scores, count in scored)])


def blocks(clips: Mapping[str, Side]) -> Iterator[Block]:
    """Yields clips on the first device in blocks; a CPU reads the arrays in place, be they files.

    The last block is filled up with one of its clips to a power of two.
    """
    total = len(next(iter(clips.values())).scale)
    device = jax.local_devices()[0]
    for start in range(0, total, BLOCK):
        count = min(BLOCK, total - start)
        part = jax.tree.map(lambda x, first=start, rows=count: x[first : first + rows], dict(clips))
        if count < BLOCK:
            part = filled(part, (1 << (count - 1).bit_length()) - count)
        yield Block(jax.device_put(part, device, may_alias=True), count)


def filled(clips: Mapping[str, Side], more: int) -> dict[str, Side]:
    """Returns clips with `more` copies of the first one at their end."""
    return jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[:1], more, axis=0)]), dict(clips))


def padded(asked: Query, multiple: int = 16) -> Query:
    """Returns an equal query whose numbers of tokens are multiples, so that few programs serve all queries."""
    words, weights = {}, {}
    for name, tokens in asked.words.items():
        more = -len(tokens) % multiple
        words[name] = np.concatenate([tokens, np.repeat(tokens[:1], more, axis=0)])
        weights[name] = np.concatenate([asked.weights[name], np.zeros(more, np.float32)])
    return Query(words, weights, asked.rates)


def top(scores: Float[np.ndarray, " n"], count: int) -> np.ndarray:
    """Returns the numbers of the largest scores, the largest first; equal scores are ordered by number."""
    if count < len(scores):
        limit = np.partition(scores, len(scores) - count)[len(scores) - count]
        chosen = np.flatnonzero(scores >= limit)
    else:
        chosen = np.arange(len(scores))
    return chosen[np.lexsort((chosen, -scores[chosen]))][:count]
