"""Decoding with kept keys and values against plain re-computation, enumeration and the model's own probabilities."""

import dataclasses
import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax import fields
from hbi_jax.models.caption import CaptionHBI
from hbi_jax.models.config import Decoding
from hbi_jax.models.decoding import generate
from hbi_jax.parallel.mesh import batch_sharding, make_mesh, replicated
from hbi_jax.types import WeightedTokens
from tests.tiny_hbi import CONFIG, make_batch, random_params

ROWS, LENGTH, VOCABULARY = 4, 8, 12
START, END = VOCABULARY - 2, VOCABULARY - 1


def make_model(vocab_size):
    clip = dataclasses.replace(CONFIG.clip, text_layers=0, vision_layers=0, vocab_size=vocab_size)
    return CaptionHBI(
        dataclasses.replace(CONFIG, clip=clip, levels=CONFIG.levels[:1], frame_layers=0, header="none"),
        decoder_layers=2,
    )


def make_params(model, end=2.0):
    """Words weigh less than places, so that captions do not repeat one word; the end is pulled up, so that some end."""
    params = random_params(model, jax.tree.map(jnp.asarray, make_batch(2)))
    caption = params["params"]["caption"]
    words = caption["token_embedding"]["embedding"]
    words *= 0.2
    caption["ln_final"]["bias"] += end * words[-1] / np.linalg.norm(words[-1])
    return params


MODEL = make_model(VOCABULARY)
FRAME_MASK = np.arange(5) < np.array([5, 3, 4, 2])[:, None]
FRAMES = np.random.default_rng(0).normal(size=(ROWS, 5, 32)).astype(np.float32)
RUN = jax.jit(generate, static_argnums=(0, 3))


def video_of(frames, mask):
    return WeightedTokens(jnp.asarray(frames), jnp.asarray(mask), jnp.zeros(mask.shape))


VIDEO = video_of(FRAMES, FRAME_MASK)
GREEDY = Decoding("greedy", LENGTH)
BEAM = Decoding("beam", LENGTH, num_beams=3, length_penalty=0.7)
SAMPLE = Decoding("sample", LENGTH, num_samples=3, temperature=1.5, top_k=8, top_p=0.9)
METHODS = {"greedy": GREEDY, "beam": BEAM, "sample": SAMPLE}
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


@pytest.fixture(scope="module")
def run(params):
    def run(decoding, video=VIDEO, key=KEY):
        return jax.tree.map(np.asarray, RUN(MODEL, params, video, decoding, key))

    return run


@pytest.fixture(scope="module")
def recompute(params):
    """Log-probabilities of what follows a caption, by reading all of it again."""
    logits = jax.jit(lambda *args: MODEL.apply(params, *args, method="caption_logits"))

    def next_word(row, words):
        ids, mask = np.zeros((1, LENGTH), np.int32), np.arange(LENGTH)[None] < len(words)
        ids[0, : len(words)] = words
        video = video_of(FRAMES[row : row + 1], FRAME_MASK[row : row + 1])
        x = np.asarray(logits(video, ids, mask), np.float64)[0, len(words) - 1]
        return x - x.max() - np.log(np.exp(x - x.max()).sum())

    return next_word


def beam_search(next_word, num_beams, length_penalty):
    """A plain one: captions as lists. Greedy with one beam."""
    beams = [([START], 0.0)]
    for _ in range(LENGTH - 1):
        candidates = []
        for words, log_p in beams:
            if words[-1] == END:
                candidates.append((words, log_p))
            else:
                candidates += [([*words, word], log_p + gain) for word, gain in enumerate(next_word(words))]
        candidates.sort(key=lambda caption: -caption[1] / (len(caption[0]) - 1) ** length_penalty)
        beams = candidates[:num_beams]
    return beams


def assert_captions(generated, row, wanted):
    """Words, padding after them and log-probabilities."""
    for number, (words, log_p) in enumerate(wanted):
        padding = [0] * (LENGTH - len(words))
        assert generated.token_ids[row, number].tolist() == words + padding
        assert generated.mask[row, number].sum() == len(words)
        assert generated.mask[row, number, : len(words)].all()
        np.testing.assert_allclose(generated.log_probability[row, number], log_p, atol=1e-5)


@pytest.mark.parametrize(("decoding", "beams"), [(GREEDY, 1), (BEAM, 3)], ids=["greedy", "beam"])
def test_it_is_a_plain_search_by_recomputation(run, recompute, decoding, beams):
    got = run(decoding)
    assert got.token_ids.shape == (ROWS, beams, LENGTH)
    for row in range(ROWS):
        wanted = beam_search(lambda words, row=row: recompute(row, words), beams, decoding.length_penalty)
        assert_captions(got, row, wanted)
    # Words were found that ended and words that did not.
    assert len(set(got.mask.sum(-1).ravel().tolist())) > 1


@pytest.mark.parametrize(("decoding", "beams"), [(GREEDY, 1), (BEAM, 3)], ids=["greedy", "beam"])
def test_a_vocabulary_is_all_that_is_searched(params, recompute, decoding, beams):
    """The same search where no other token has any probability."""
    few = np.array([0, 2, 3, 5, 7, START, END])
    model = dataclasses.replace(MODEL, vocabulary=tuple(few.tolist()))
    got = jax.tree.map(np.asarray, RUN(model, params, VIDEO, decoding, None))
    nowhere = np.full(VOCABULARY, -np.inf)

    def next_word(row, words):
        log_p = nowhere.copy()
        log_p[few] = recompute(row, words)[few]
        return log_p - np.log(np.exp(log_p).sum())

    for row in range(ROWS):
        wanted = beam_search(lambda words, row=row: next_word(row, words), beams, decoding.length_penalty)
        assert_captions(got, row, wanted)
    assert np.isin(got.token_ids, few).all()
    assert np.isin(got.token_ids, [3, 5, 7]).any()


def test_one_beam_is_greedy(run):
    for got, wanted in zip(run(dataclasses.replace(BEAM, num_beams=1)), run(GREEDY), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_a_search_wide_enough_finds_every_caption():
    """Vocabulary of 4, three steps: 1 + 3 + 9 captions end, 27 are cut; what is asked for beyond them is absent."""
    model = make_model(4)
    params, video = make_params(model), jax.tree.map(lambda x: x[1:2], VIDEO)
    got = RUN(model, params, video, Decoding("beam", 4, num_beams=43, length_penalty=0.5), None)
    token_ids, mask, log_p = (np.asarray(x[0]) for x in got)
    found = [tuple(ids[real].tolist()) for ids, real in zip(token_ids, mask, strict=True)]
    bodies = [*((*words, 3) for count in range(3) for words in itertools.product(range(3), repeat=count))]
    bodies += itertools.product(range(3), repeat=3)
    assert len(bodies) == 40
    assert set(found[:40]) == {(2, *body) for body in bodies}
    assert found[40:] == [(2,)] * 3
    np.testing.assert_array_equal(log_p[40:], -np.inf)
    np.testing.assert_allclose(np.exp(log_p[:40].astype(np.float64)).sum(), 1, rtol=1e-5)
    score = log_p / np.maximum(mask.sum(-1) - 1, 1) ** 0.5
    assert np.all(score[:-1] >= score[1:])
    logits = jax.jit(lambda *args: model.apply(params, *args, method="caption_logits"))(
        jax.tree.map(lambda x: jnp.repeat(x, 40, axis=0), video), token_ids[:40], mask[:40]
    )
    each = np.take_along_axis(jax.nn.log_softmax(logits)[:, :-1], token_ids[:40, 1:, None], axis=2)[..., 0]
    np.testing.assert_allclose(log_p[:40], np.where(mask[:40, 1:], each, 0).sum(-1), atol=1e-5)


def test_equal_captions_come_in_the_order_of_their_words(params):
    """Parameters of zero make every word as likely as any other."""
    zero = jax.tree.map(jnp.zeros_like, params)
    got = RUN(MODEL, zero, VIDEO, BEAM, KEY)
    words = np.zeros((3, LENGTH), int)
    words[:, 0], words[:, -1] = START, range(3)
    np.testing.assert_array_equal(got.token_ids, np.broadcast_to(words, got.token_ids.shape))


@pytest.mark.parametrize("name", METHODS)
def test_rows_and_what_padding_holds_have_no_part(run, name):
    """The first rows stay the same, bit by bit, whatever the others are."""
    frames = np.where(FRAME_MASK[..., None], FRAMES, 9.0)
    frames[2:] *= -1
    got, wanted = run(METHODS[name], video_of(frames, FRAME_MASK)), run(METHODS[name])
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one[:2], other[:2])
    assert np.all(got.log_probability[2:] != wanted.log_probability[2:])


def test_padded_is_unpadded(run):
    """Two rows without the frame that is padding in both."""
    few = run(BEAM, video_of(FRAMES[1:3, :4], FRAME_MASK[1:3, :4]))
    for got, wanted in zip(few, run(BEAM), strict=True):
        np.testing.assert_allclose(got, wanted[1:3], atol=1e-5)


@pytest.mark.slow
def test_compiled_is_eager(run, params):
    eager = generate(MODEL, params, VIDEO, BEAM)
    for got, wanted in zip(run(BEAM), eager, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.eight_devices
def test_eight_devices_are_one(run, params):
    mesh = make_mesh(8, 1)
    video = jax.tree.map(lambda x: jnp.concatenate([x, x]), VIDEO)
    inputs = jax.device_put(params, replicated(mesh)), jax.device_put(video, batch_sharding(mesh))
    got = RUN(MODEL, *inputs, BEAM, None)
    for one, wanted in zip(got, run(BEAM), strict=True):
        np.testing.assert_allclose(one, np.concatenate([wanted, wanted]), atol=1e-5)


def test_it_stops_where_all_have_ended():
    """As many steps as the longest caption has words; a video without a frame has no caption and is not waited for."""
    mask = FRAME_MASK.copy()
    mask[3] = False
    steps = []

    def count(call, args, kwargs, context):
        if context.method_name == "advance":
            jax.debug.callback(lambda: steps.append(1))
        return call(*args, **kwargs)

    with nn.intercept_methods(count):
        got = jax.jit(lambda: generate(MODEL, make_params(MODEL, 4.0), video_of(FRAMES, mask), GREEDY))()
    jax.effects_barrier()
    assert np.isneginf(got.log_probability[3]).all()
    assert got.mask[3].sum() == 1
    assert got.token_ids[3].sum() == START
    lengths = got.mask[:3].sum(-1)
    assert len(steps) == lengths.max() - 1 < LENGTH - 1
    assert np.all(got.token_ids[:3].max(-1) == END)


def probabilities(recompute, row):
    return np.exp(recompute(row, [START]))


@pytest.mark.parametrize(
    ("options", "kept"),
    [({}, range(VOCABULARY)), ({"temperature": 0.7, "top_k": 6, "top_p": 0.8}, None)],
    ids=["plain", "truncated"],
)
def test_samples_follow_the_softmax(params, recompute, options, kept):
    """One word, drawn 4,000 times: a chi-square below its 0.9999 quantile; nothing that was to be left out."""
    count, row = 4000, 0
    decoding = Decoding("sample", 2, num_samples=count, **options)
    got = RUN(MODEL, params, jax.tree.map(lambda x: x[:1], VIDEO), decoding, KEY)
    p = probabilities(recompute, row)
    if kept is None:
        p = p ** (1 / options["temperature"])
        order = np.argsort(-p)[: options["top_k"]]
        share = p[order] / p[order].sum()
        kept = order[np.cumsum(share) - share < options["top_p"]]
        assert 2 <= len(kept) < 6
    wanted = np.zeros(VOCABULARY)
    wanted[list(kept)] = count * p[list(kept)] / p[list(kept)].sum()
    drawn = np.bincount(np.asarray(got.token_ids)[0, :, 1], minlength=VOCABULARY)
    assert drawn[wanted == 0].sum() == 0
    few = wanted > 0
    chi_square, freedom = ((drawn - wanted)[few] ** 2 / wanted[few]).sum(), few.sum() - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom) + 4
    # Of the model itself, whatever the temperature.
    log_p = np.log(probabilities(recompute, row))[np.asarray(got.token_ids)[0, :, 1]]
    np.testing.assert_allclose(got.log_probability[0], log_p, atol=1e-5)


def test_samples_have_a_key(run):
    """The same for the same key, others for another; best first."""
    first, same, other = run(SAMPLE), run(SAMPLE), run(SAMPLE, key=jax.random.key(1))
    np.testing.assert_array_equal(first.token_ids, same.token_ids)
    assert np.any(first.token_ids != other.token_ids)
    score = first.log_probability / (first.mask.sum(-1) - 1)
    assert np.all(score[:, :-1] >= score[:, 1:])
    assert np.any(first.token_ids[:, 0] != first.token_ids[:, 1])


def test_cold_samples_are_greedy(run):
    cold, greedy = run(Decoding("sample", LENGTH, temperature=1e-4)), run(GREEDY)
    np.testing.assert_array_equal(cold.token_ids, greedy.token_ids)
    np.testing.assert_allclose(cold.log_probability, greedy.log_probability, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("method", "nucleus", "one of 'greedy', 'beam', 'sample'"),
        ("max_words", 1, "2 or more"),
        ("num_beams", 0, "1 or more"),
        ("length_penalty", -1.0, "0 or more"),
        ("num_samples", 0, "1 or more"),
        ("length_penalty", np.inf, "a finite number"),
        ("temperature", 0.0, "more than 0"),
        ("top_k", -1, "0 or more"),
        ("top_p", 0.0, "more than 0"),
        ("top_p", 1.1, "a share in 0..1"),
    ],
)
def test_what_cannot_work_is_named(field, value, wanted):
    with pytest.raises(ValueError, match=re.escape(f"decoding.{field}={value!r}: wanted {wanted}")):
        fields.check(fields.parse(Decoding, {field: value}, "decoding"), "decoding")


def test_what_does_not_fit_is_named(params):
    with pytest.raises(ValueError, match="method='sample' draws: wanted a key; pass key="):
        generate(MODEL, params, VIDEO, SAMPLE)
    with pytest.raises(ValueError, match="captions of 13 tokens, but the decoder has positions for 12"):
        generate(MODEL, params, VIDEO, Decoding("greedy", 13))
    with pytest.raises(ValueError, match=r"top_k=13: wanted at most the 12 tokens of the vocabulary"):
        generate(MODEL, params, VIDEO, dataclasses.replace(SAMPLE, top_k=13), KEY)
