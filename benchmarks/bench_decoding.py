"""Decoding with a key-value cache against recomputation: one decoder layer of ViT-B/32's size, random weights.

    python -m benchmarks.bench_decoding --out benchmarks/results

Claim: greedy decoding of 32 tokens is at least 5 times as fast as recomputing the caption so far for every token.
Recomputation is measured in two forms, compiled with static shapes like decoding: `plain`, to which the claim refers,
computes the logits after every token. `last_word` is the best possible form and computes only the logits after the last
token; in a single layer it repeats only the keys and values of the words, so the product with the vocabulary, common to
all forms, dominates. All three must produce the same captions, none of which ends early. Beam search is timed too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from benchmarks.harness import parse_arguments, time_jitted, write
from configs.msrvtt import get_config
from hbi_jax.config import parse
from hbi_jax.models.caption import CaptionHBI
from hbi_jax.models.config import Decoding
from hbi_jax.models.decoding import generate
from hbi_jax.types import WeightedTokens

VIDEOS, FRAMES, TOKENS, BEAMS = 16, 12, 32, 5
CALLS = 5


def inputs(model: CaptionHBI) -> tuple[PyTree, WeightedTokens]:
    """Returns random decoder weights and frames. The weights of the end token ensure that it is never the likeliest."""
    init, noise = jax.random.split(jax.random.key(0))
    mask = jnp.ones((VIDEOS, FRAMES), bool)
    width = model.config.clip.embed_features
    video = WeightedTokens(jax.random.normal(noise, (*mask.shape, width)), mask, jnp.zeros(mask.shape))
    scale = {"logit_scale": jnp.zeros(())}
    decoder, _ = model.bind({"params": scale}).caption.unbind()
    ids = jnp.zeros((VIDEOS, TOKENS), jnp.int32)
    caption = jax.jit(decoder.init)(init, ids, ids == 0, video)["params"]
    words = caption["token_embedding"]["embedding"]
    caption["token_embedding"]["embedding"] = words.at[decoder.end_token].set(-1)
    caption["ln_final"]["bias"] = jnp.ones(width)
    return {"params": {**scale, "caption": caption}}, video


def recompute(model: CaptionHBI, last_word: bool, params: PyTree, video: WeightedTokens) -> Int[Array, "b t"]:
    """Generates greedy captions by recomputing all earlier tokens for every token."""
    decoder, variables = model.bind(params).caption.unbind()
    apply = functools.partial(decoder.apply, variables)

    def next_logits(ids: Int[Array, "b t"], last: Int[Array, ""]) -> Float[Array, "b n"]:
        place = jnp.broadcast_to(jnp.arange(TOKENS), ids.shape)
        if not last_word:
            logits = model.apply(params, video, ids, place <= last, method="caption_logits")
            return jax.lax.dynamic_index_in_dim(logits, last, axis=1, keepdims=False)
        # The logits of the first call are unused, so the compiler removes them.
        context = apply(video, method="look")
        _, words = apply(ids, place < last, context, decoder.blank(*ids.shape), method="advance")
        word = jax.lax.dynamic_slice_in_dim(ids, last, 1, axis=1)
        return apply(word, word >= 0, context, words, last, method="advance")[0][:, 0]

    def step(ids: Int[Array, "b t"], last: Int[Array, ""]) -> tuple[Int[Array, "b t"], None]:
        word = jnp.argmax(next_logits(ids, last), axis=-1)
        return jax.lax.dynamic_update_index_in_dim(ids, word, last + 1, axis=1), None

    start = jnp.zeros((VIDEOS, TOKENS), jnp.int32).at[:, 0].set(decoder.start_token)
    return jax.lax.scan(step, start, jnp.arange(TOKENS - 1))[0]


def main() -> None:
    """Measures and writes bench_decoding.json."""
    out = parse_arguments(__doc__)
    config = parse(get_config())
    model = CaptionHBI(config.model, config.captions.decoder_layers, config.captions.dropout_rate)
    params, video = inputs(model)

    def decode(decoding: Decoding):
        return lambda params, video: generate(model, params, video, decoding).token_ids[:, 0]

    ways = {
        "greedy": decode(Decoding("greedy", TOKENS)),
        "recomputation_plain": functools.partial(recompute, model, False),
        "recomputation_last_word": functools.partial(recompute, model, True),
        f"beam_{BEAMS}": decode(Decoding("beam", TOKENS, num_beams=BEAMS)),
    }
    timings = {name: time_jitted(way, params, video, calls=CALLS, warmup=1) for name, way in ways.items()}
    captions = [np.asarray(jax.jit(way)(params, video)) for way in list(ways.values())[:3]]
    same = all(np.array_equal(captions[0], others) for others in captions[1:])
    clip, greedy = config.model.clip, timings["greedy"].median_ms
    results = {
        "shapes": {
            "videos": VIDEOS,
            "frames": FRAMES,
            "tokens": TOKENS,
            "width": clip.embed_features,
            "vocabulary": clip.vocab_size,
            "layers": config.captions.decoder_layers,
            "dtype": config.model.dtype,
        },
        "timings": {name: timing._asdict() for name, timing in timings.items()},
        "times_as_fast_as_recomputation": {
            name.removeprefix("recomputation_"): round(timing.median_ms / greedy, 2)
            for name, timing in timings.items()
            if name.startswith("recomputation_")
        },
        "same_captions": same,
        "captions_per_second": {
            name: round(1e3 * VIDEOS / timings[name].median_ms, 1) for name in ("greedy", f"beam_{BEAMS}")
        },
    }
    print(write(out, "bench_decoding", results).read_text())


if __name__ == "__main__":
    main()
