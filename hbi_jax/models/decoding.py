"""Caption generation by greedy decoding, beam search or sampling, with static shapes and cached keys and values."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from hbi_jax.fields import check
from hbi_jax.models.caption import CaptionHBI, Context
from hbi_jax.models.config import Decoding
from hbi_jax.types import WeightedTokens

PADDING = 0


class Generated(NamedTuple):
    """Captions of videos, sorted for each video by descending score (`Decoding.length_penalty`).

    Attributes:
      token_ids: Start token, words, end token, zeros; the tokenizer's format.
      mask: True at start token, words and end token.
      log_probability: The model's log-probability of all tokens after the first, for every method. -inf if there is no
        caption, because fewer captions are possible than requested or the video has no real token.
    """

    token_ids: Int[Array, "b n t"]
    mask: Bool[Array, "b n t"]
    log_probability: Float[Array, "b n"]


class _Captions(NamedTuple):
    """The captions so far and the state needed for the next word; see `Generated`."""

    token_ids: Int[Array, "b n t"]
    mask: Bool[Array, "b n t"]
    log_probability: Float[Array, "b n"]
    ended: Bool[Array, "b n"]
    words: Context  # of b * n rows


def generate(
    model: CaptionHBI,
    params: PyTree,
    video: WeightedTokens,
    decoding: Decoding,
    key: Key[Array, ""] | None = None,
    rows: Int[Array, " b"] | None = None,
) -> Generated:
    """Generates captions of videos. Pure; compile it with `model` and `decoding` static.

    Each step computes one word of every caption. The keys and values of the video are computed once, and those of the
    preceding words are cached. Generation stops when all captions have ended.

    Args:
      model: The model.
      params: Its variables.
      video: Tokens of the finest level, `finest(encode_video(...).levels)`.
      decoding: The method and its parameters.
      key: For sampling. The samples of a row depend on it, on the row and on the row's number only.
      rows: The numbers of the rows; by default their places in the batch.

    Raises:
      ValueError: If sampling has no key, captions may become longer than the model's position embedding, `top_k`
        exceeds the vocabulary, or a field of `decoding` is out of range.
    """
    check(decoding, "decoding")
    if decoding.method == "sample" and key is None:
        raise ValueError("decoding: method='sample' draws: wanted a key; pass key=jax.random.key(seed)")
    decoder, variables = model.bind(params).caption.unbind()
    apply = functools.partial(decoder.apply, variables)
    b, n, t = video.mask.shape[0], decoding.num_captions, decoding.max_words
    choices, vocab = decoder.choices, decoder.choices.shape[0]
    if decoding.top_k > vocab:
        wanted = f"at most the {vocab} tokens of the vocabulary"
        raise ValueError(f"decoding: top_k={decoding.top_k}: wanted {wanted}; lower it")
    context = jax.tree.map(lambda x: jnp.repeat(x, n, axis=0), apply(video, method="look"))
    # A caption that has ended continues with padding at log-probability 0.
    stay = jnp.where(choices == PADDING, 0.0, -jnp.inf)[None, None]

    def choose(
        captions: _Captions, log_p: Float[Array, "b n vocab"], position: Int[Array, ""]
    ) -> tuple[Int[Array, "b n"], Int[Array, "b n"]]:
        """Returns the parent of each new caption and the index of its next token among the choices."""
        if decoding.method == "beam":
            total = captions.log_probability[..., None] + log_p
            score = _score(decoding, total, (_length(captions.mask) + ~captions.ended)[..., None])
            _, best = jax.lax.top_k(score.reshape(b, n * vocab), n)
            return best // vocab, best % vocab
        itself = jnp.broadcast_to(jnp.arange(n), (b, n))
        if decoding.method == "greedy":
            return itself, jnp.argmax(log_p, axis=-1)
        draws = (jnp.arange(b) if rows is None else rows)[:, None] * n + itself
        keys = jax.vmap(jax.vmap(lambda draw: jax.random.fold_in(jax.random.fold_in(key, draw), position)))(draws)
        return itself, _sample(decoding, keys, log_p)

    def step(state: tuple[Int[Array, ""], _Captions]) -> tuple[Int[Array, ""], _Captions]:
        """Extends every caption by one token."""
        position, captions = state
        last = functools.partial(jax.lax.dynamic_index_in_dim, index=position, axis=2)
        inputs = (last(x).reshape(b * n, 1) for x in (captions.token_ids, captions.mask))
        logits, words = apply(*inputs, context, captions.words, position, method="advance")
        log_p = jax.nn.log_softmax(logits[:, 0]).reshape(b, n, vocab)
        log_p = jnp.where(captions.ended[..., None], stay, log_p)
        parent, choice = choose(captions, log_p, position)
        gain = jnp.take_along_axis(log_p.reshape(b, n * vocab), parent * vocab + choice, axis=1)
        token = choices[choice]
        captions = jax.tree.map(functools.partial(_take, parent), captions._replace(words=words))
        put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=position + 1, axis=2)
        return position + 1, captions._replace(
            token_ids=put(captions.token_ids, jnp.where(captions.ended, PADDING, token)),
            mask=put(captions.mask, ~captions.ended),
            log_probability=captions.log_probability + gain,
            ended=captions.ended | (token == decoder.end_token),
        )

    absent = jnp.broadcast_to(~video.mask.any(axis=1)[:, None], (b, n))
    if decoding.method == "beam":
        # The search starts from a single beam, because equal beams would stay equal.
        absent |= (jnp.arange(n) > 0)[None]
    first = (jnp.arange(t) == 0)[None, None]
    start = _Captions(
        token_ids=jnp.broadcast_to(jnp.where(first, decoder.start_token, PADDING), (b, n, t)),
        mask=jnp.broadcast_to(first, (b, n, t)),
        log_probability=jnp.where(absent, -jnp.inf, 0.0),
        ended=absent,
        words=decoder.blank(b * n, t),
    )
    _, captions = jax.lax.while_loop(
        lambda state: (state[0] + 1 < t) & ~state[1].ended.all(), step, (jnp.zeros((), jnp.int32), start)
    )
    log_probability = captions.log_probability
    _, order = jax.lax.top_k(_score(decoding, log_probability, _length(captions.mask)), n)
    impossible = jnp.isneginf(log_probability)[..., None]
    token_ids, mask = (jnp.where(impossible, *pair) for pair in zip(start[:2], captions[:2], strict=True))
    return Generated(*(_take(order, x) for x in (token_ids, mask, log_probability)))


def _length(mask: Bool[Array, "b n t"]) -> Int[Array, "b n"]:
    """Returns the number of generated tokens: all but the start token."""
    return mask.sum(axis=-1) - 1


def _score(
    decoding: Decoding, log_probability: Float[Array, "b n *v"], length: Int[Array, "b n *#v"]
) -> Float[Array, "b n *v"]:
    """Returns the score that ranks captions: log p / length^length_penalty. Ties keep their order."""
    return log_probability / jnp.maximum(length, 1).astype(jnp.float32) ** decoding.length_penalty


def _sample(decoding: Decoding, keys: Key[Array, "b n"], log_p: Float[Array, "b n vocab"]) -> Int[Array, "b n"]:
    """Samples a token for every row from its most likely tokens; among equally likely ones, lower indices are kept."""
    if not decoding.top_k and decoding.top_p == 1:  # nothing to sort
        return jax.vmap(jax.vmap(jax.random.categorical))(keys, log_p / decoding.temperature)
    best, tokens = jax.lax.top_k(log_p / decoding.temperature, decoding.top_k or log_p.shape[-1])
    if decoding.top_p < 1:
        probability = jax.nn.softmax(best)
        before = jnp.cumsum(probability, axis=-1) - probability
        best = jnp.where(before < decoding.top_p, best, -jnp.inf)
    drawn = jax.vmap(jax.vmap(jax.random.categorical))(keys, best)
    return jnp.take_along_axis(tokens, drawn[..., None], axis=-1)[..., 0]


def _take(parent: Int[Array, "b n"], x: Array) -> Array:
    """Selects captions of each video by index from an array whose leading axes are `b n` or their product."""
    b, n = parent.shape
    rows = x.reshape(b, n, -1)
    return jax.vmap(lambda rows, parent: rows[parent])(rows, parent).reshape(x.shape)
