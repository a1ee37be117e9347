"""HBI as a whole: padding, company, blocks, precision and recomputation change nothing; levels are data."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamNotFoundError

from hbi_jax.models import similarity
from hbi_jax.models.clip import VisionTower, normalize_pixels
from hbi_jax.models.config import Level
from hbi_jax.models.hbi import HBI, TokenWeight
from hbi_jax.types import Tokens, WeightedTokens
from tests.tiny_hbi import CONFIG, END, FRAMES, make_batch, random_params

ROWS = 4
BATCH = make_batch(ROWS)
LEVELS = [level.name for level in CONFIG.levels]


def on_device(batch):
    return jax.tree.map(jnp.asarray, batch)


@pytest.fixture(scope="module")
def params():
    return random_params(HBI(CONFIG), on_device(BATCH))


@pytest.fixture(scope="module")
def align(params):
    apply = jax.jit(HBI(CONFIG).apply)
    return lambda batch: jax.tree.map(np.asarray, apply(params, on_device(batch)))


@pytest.fixture(scope="module")
def aligned(align):
    return align(BATCH)


@pytest.fixture(scope="module")
def encoded(params):
    """Texts and videos of the batch, each encoded without the other."""
    batch = on_device(BATCH)
    text = jax.jit(lambda p: HBI(CONFIG).apply(p, batch.token_ids, batch.text_mask, method=HBI.encode_text))
    video = jax.jit(lambda p: HBI(CONFIG).apply(p, batch.frames, batch.frame_mask, method=HBI.encode_video))
    return text(params), video(params)


def assert_same(got, wanted, atol, rows=slice(None)):
    """Everything that means something: padded tokens hold what they like."""
    for level, alignment in wanted.items():
        other = got[level]
        np.testing.assert_allclose(other.similarity, alignment.similarity[rows, rows], atol=atol, rtol=0)
        for side in ("text", "video"):
            tokens, others = getattr(alignment, side), getattr(other, side)
            mask = tokens.mask[rows]
            real = others.mask.shape[1]  # of a batch that was cut
            assert not mask[:, real:].any()
            mask = mask[:, :real]
            np.testing.assert_array_equal(others.mask, mask)
            for field in ("features", "logits"):
                wanted_tokens = getattr(tokens, field)[rows][:, :real]
                scale = np.abs(wanted_tokens).max()
                np.testing.assert_allclose(getattr(others, field)[mask], wanted_tokens[mask], atol=atol * scale, rtol=0)
        t, v = other.pair_similarity.shape[1:]
        for field in ("pair_similarity", "pair_prediction"):
            wanted_cells = getattr(alignment, field)[rows]
            np.testing.assert_allclose(getattr(other, field), wanted_cells[:, :t, :v], atol=atol, rtol=0)
            np.testing.assert_array_equal(wanted_cells[:, t:], 0)
            np.testing.assert_array_equal(wanted_cells[:, :, v:], 0)


def test_the_batch_has_something_to_test(aligned):
    """Padding in words, frames and merged tokens, and scores that differ."""
    assert not BATCH.text_mask.all()
    assert not BATCH.frame_mask.all()
    assert not aligned["action"].video.mask.all()
    assert set(aligned) == set(LEVELS)
    for alignment in aligned.values():
        assert np.std(alignment.similarity) > 1e-2
        assert np.abs(alignment.pair_prediction).max() > 1e-2
        assert np.abs(alignment.similarity).max() <= 1


def test_garbage_in_padding_changes_nothing(align, aligned):
    rng = np.random.default_rng(1)
    ids = rng.integers(0, END, BATCH.token_ids.shape).astype(np.int32)
    pixels = rng.integers(0, 256, BATCH.frames.shape).astype(np.uint8)
    garbage = BATCH._replace(
        token_ids=np.where(BATCH.text_mask, BATCH.token_ids, ids),
        frames=np.where(BATCH.frame_mask[..., None, None, None], BATCH.frames, pixels),
    )
    assert not np.array_equal(garbage.frames, BATCH.frames)
    assert_same(align(garbage), aligned, atol=1e-6)


def test_padded_is_unpadded(align, aligned):
    """One pair alone and cut to its own length, against its place in the batch."""
    row, words, frames = 1, 5, 3
    assert (BATCH.text_mask[row].sum(), BATCH.frame_mask[row].sum()) == (words, frames)
    rows = slice(row, row + 1)
    cut = jax.tree.map(lambda x: x[rows], BATCH)
    cut = cut._replace(
        token_ids=cut.token_ids[:, :words],
        text_mask=cut.text_mask[:, :words],
        frames=cut.frames[:, :frames],
        frame_mask=cut.frame_mask[:, :frames],
    )
    assert_same(align(cut), aligned, atol=1e-5, rows=rows)


def test_rows_do_not_see_each_other(align, aligned):
    """A row's numbers do not depend on its place or on what else is in the batch."""
    other = make_batch(ROWS, seed=5)
    mixed = jax.tree.map(lambda x, y: np.concatenate([x[2:], y[2:]]), BATCH, other)
    got = align(mixed)
    for level, alignment in aligned.items():
        np.testing.assert_allclose(got[level].similarity[:2, :2], alignment.similarity[2:, 2:], atol=1e-6)
        for field in ("pair_similarity", "pair_prediction"):
            np.testing.assert_allclose(getattr(got[level], field)[:2], getattr(alignment, field)[2:], atol=1e-6)
        assert np.abs(got[level].similarity[2:] - alignment.similarity[2:]).max() > 1e-3


def test_compiled_is_eager(params):
    """Of one pair at one level and without the towers' layers: uncompiled, every operation costs a compilation."""
    clip = dataclasses.replace(CONFIG.clip, vision_layers=0, text_layers=0)
    model = HBI(dataclasses.replace(CONFIG, clip=clip, frame_layers=0, levels=CONFIG.levels[:1]))
    batch = jax.tree.map(lambda x: jnp.asarray(x[:1]), BATCH)
    got, wanted = (jax.tree.map(np.asarray, apply(params, batch)) for apply in (jax.jit(model.apply), model.apply))
    assert_same(got, wanted, atol=1e-6)


@pytest.mark.parametrize("ends", ["start", "none"])
def test_ends_of_a_text_need_not_be_players(params, aligned, ends):
    """Nothing but their masks and the tokens made of them changes; a text of nothing but ends keeps them."""
    model = HBI(dataclasses.replace(CONFIG, end_tokens=ends))
    mask = np.array(BATCH.text_mask)
    mask[0] = np.arange(mask.shape[1]) < 2
    encode = jax.jit(functools.partial(model.apply, method="encode_text"))
    text, whole = encode(params, BATCH.token_ids, mask), aligned["entity"].text
    entity = text.levels["entity"]
    place, last = np.arange(mask.shape[1]), mask.sum(1, keepdims=True) - 1
    np.testing.assert_array_equal(entity.mask[1:], (mask & (place >= (ends == "none")) & (place < last))[1:])
    np.testing.assert_array_equal(entity.mask[0], mask[0])
    np.testing.assert_allclose(entity.features[1:], whole.features[1:], atol=1e-6)
    np.testing.assert_array_equal(text.members["entity"][1:], np.where(entity.mask, place, -1)[1:])
    assert np.all(np.asarray(text.members["action"])[~np.asarray(entity.mask)] == -1)


def test_the_first_level_may_see_the_past_only(params, encoded):
    """Its frames are those of the video so far; merged levels and the mean are made of frames that see all."""
    past = HBI(dataclasses.replace(CONFIG, frame_past=FRAMES))

    def first_and_rest(video):
        (_, first), *rest = video.levels.items()
        return first, (rest, video.pooled, video.members)

    @functools.partial(jax.jit, static_argnums=0)
    def encode(model, mask):
        return model.apply(params, on_device(BATCH).frames, mask, method=HBI.encode_video)

    got, rest = first_and_rest(encode(past, BATCH.frame_mask))
    seen, wanted = first_and_rest(encoded[1])
    jax.tree.map(np.testing.assert_array_equal, rest, wanted)
    for frame in range(FRAMES):
        so_far = encode(HBI(CONFIG), BATCH.frame_mask & (np.arange(FRAMES) <= frame)).levels["entity"]
        rows = BATCH.frame_mask[:, frame]
        for mine, theirs in zip(got, so_far, strict=True):
            np.testing.assert_allclose(mine[rows, frame], theirs[rows, frame], atol=5e-6)
    assert np.abs(got.features[:, 0] - seen.features[:, 0]).max() > 1e-3


def test_uint8_frames_are_normalised_frames(align, aligned):
    batch = BATCH._replace(frames=np.asarray(normalize_pixels(jnp.asarray(BATCH.frames))))
    assert_same(align(batch), aligned, atol=1e-5)


def test_bfloat16_is_close_to_float32(params, aligned):
    """Entity level, where no cluster can change its members: similarities within 0.03, and kept in float32."""
    config = dataclasses.replace(CONFIG, dtype="bfloat16", levels=CONFIG.levels[:1])
    got = jax.jit(HBI(config).apply)(params, on_device(BATCH))["entity"]
    assert got.text.features.dtype == jnp.bfloat16
    for x in (got.similarity, got.pair_similarity, got.pair_prediction, got.text.logits):
        assert x.dtype == jnp.float32
    np.testing.assert_allclose(got.similarity, aligned["entity"].similarity, atol=0.03)
    np.testing.assert_allclose(got.pair_similarity, aligned["entity"].pair_similarity, atol=0.06)


def test_each_side_alone_is_the_pair(encoded, aligned):
    text, video = encoded
    assert list(text.levels) == list(video.levels) == LEVELS
    for level in LEVELS:
        for got, wanted in (
            (text.levels[level], aligned[level].text),
            (video.levels[level], aligned[level].video),
        ):
            mask = wanted.mask
            np.testing.assert_array_equal(got.mask, mask)
            np.testing.assert_allclose(got.features[mask], wanted.features[mask], atol=1e-5)
            np.testing.assert_allclose(got.logits[mask], wanted.logits[mask], atol=1e-5)


def test_patches_are_weighted_tokens_of_every_level(params):
    model, frames = HBI(CONFIG), jnp.asarray(BATCH.frames[:, 0])
    got = jax.jit(lambda p: model.apply(p, frames, method="encode_patches"))(params)
    embed = jax.jit(functools.partial(VisionTower(CONFIG.clip).apply, method="patches"))
    patches = embed({"params": params["params"]["vision_tower"]}, frames)
    mask = jnp.ones(patches.shape[:2], bool)
    assert list(got.levels) == LEVELS
    for level, tokens in got.levels.items():
        weight = {"params": params["params"][f"video_weight_{level}"]}
        wanted = jax.jit(TokenWeight(CONFIG.weight_features).apply)(weight, Tokens(patches, mask))
        jax.tree.map(lambda mine, theirs: np.testing.assert_allclose(mine, theirs, atol=1e-5), tokens, wanted)
        assert got.members[level].tolist() == len(frames) * [list(range(patches.shape[1]))]


def test_members_are_composed_over_the_levels():
    """The token of a level that each word and frame is part of, through every merge before it; -1 at padding."""
    levels = (*CONFIG.levels, Level("event", 2, 2))
    model = HBI(dataclasses.replace(CONFIG, levels=levels))
    batch = on_device(BATCH)
    more = random_params(model, batch)

    @jax.jit
    def encode(params):
        text = model.apply(params, batch.token_ids, batch.text_mask, method=HBI.encode_text)
        return text, model.apply(params, batch.frames, batch.frame_mask, method=HBI.encode_video)

    for side, mask in zip(encode(more), (BATCH.text_mask, BATCH.frame_mask), strict=True):
        members = jax.tree.map(np.asarray, side.members)
        assert list(members) == ["entity", "action", "event"]
        np.testing.assert_array_equal(members["entity"], np.where(mask, np.arange(mask.shape[1]), -1))
        for name in ("action", "event"):
            np.testing.assert_array_equal(members[name] >= 0, mask)
            real = np.asarray(side.levels[name].mask)
            for row, tokens in enumerate(real):
                assert set(members[name][row][mask[row]]) == set(np.flatnonzero(tokens))
        # What is merged stays together.
        for row in range(ROWS):
            pairs = set(zip(members["action"][row].tolist(), members["event"][row].tolist(), strict=True))
            assert len(pairs) == len(set(members["action"][row].tolist()))


def test_pooled_vectors(encoded):
    text, video = encoded
    last = BATCH.text_mask.sum(1) - 1
    np.testing.assert_array_equal(text.pooled, text.levels["entity"].features[np.arange(ROWS), last])
    features = np.asarray(video.levels["entity"].features)
    wanted = [features[row][mask].mean(0) for row, mask in enumerate(BATCH.frame_mask)]
    np.testing.assert_allclose(video.pooled, wanted, atol=1e-6)


def test_members_of_a_pooled_model_are_one_token_of_what_is_real():
    model = HBI(dataclasses.replace(CONFIG, pooled=True, levels=CONFIG.levels[:1]))
    batch = on_device(BATCH)
    for method, mask in (("text", BATCH.text_mask), ("video", BATCH.frame_mask)):
        inputs = (batch.token_ids, batch.text_mask) if method == "text" else (batch.frames, batch.frame_mask)
        encode = functools.partial(model.apply, method=f"encode_{method}")
        (members,) = jax.jit(encode)(random_params(model, batch), *inputs).members.values()
        np.testing.assert_array_equal(members, np.where(mask, 0, -1))


def gallery_similarity(params, text, video, rates, video_block):
    by_level = dict(zip(LEVELS, rates, strict=True))
    return HBI(CONFIG).apply(params, text, video, by_level, video_block, method="gallery_similarity")


def test_gallery_similarity_sums_the_levels(params, encoded, aligned):
    entity, action = (aligned[level].similarity for level in LEVELS)
    compute = jax.jit(gallery_similarity, static_argnums=(3, 4))
    np.testing.assert_allclose(compute(params, *encoded, (1.0, 0.0), 16), entity, atol=1e-6)
    np.testing.assert_allclose(compute(params, *encoded, (0.5, 2.0), 3), 0.5 * entity + 2 * action, atol=2e-6)


def test_a_level_of_rate_zero_is_not_computed(params, encoded, monkeypatch):
    # Each level has its loop over blocks.
    monkeypatch.setattr(similarity, "_WHOLE_BYTES", {"other": 0})

    def loops(rates):
        return str(jax.make_jaxpr(lambda t, v: gallery_similarity(params, t, v, rates, 2))(*encoded)).count("scan[")

    assert (loops((0.5, 0.5)), loops((0.0, 1.0)), loops((1.0, 0.0))) == (2, 1, 1)


@pytest.mark.parametrize("reconstruction", [False, True])
def test_retrieval_runs_nothing_of_the_interaction(reconstruction):
    """The header's parameters are not there: what needs them could not even be traced."""
    model = HBI(dataclasses.replace(CONFIG, reconstruction=reconstruction))
    whole = jax.eval_shape(model.init, jax.random.key(0), on_device(BATCH))["params"]
    without = {"params": {name: leaf for name, leaf in whole.items() if not name.startswith("header")}}
    assert len(without["params"]) == len(whole) - len(LEVELS)

    def score(params, batch):
        text = model.apply(params, batch.token_ids, batch.text_mask, method="encode_text")
        video = model.apply(params, batch.frames, batch.frame_mask, method="encode_video")
        return model.apply(params, text, video, dict.fromkeys(LEVELS, 1.0), method="gallery_similarity")

    assert jax.eval_shape(score, without, on_device(BATCH)).shape == (ROWS, ROWS)
    with pytest.raises(ScopeParamNotFoundError, match="header"):
        jax.eval_shape(model.apply, without, on_device(BATCH))


def test_the_pooled_baseline_is_the_cosine_of_two_vectors(params, encoded):
    text, video = encoded
    config = dataclasses.replace(CONFIG, pooled=True, levels=(Level("entity"),))
    got = jax.jit(HBI(config).apply)(params, on_device(BATCH))["entity"]
    a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (text.pooled, video.pooled))
    np.testing.assert_allclose(got.similarity, a @ b.T, atol=1e-6)
    np.testing.assert_allclose(got.pair_similarity[:, 0, 0], np.sum(a * b, -1), atol=1e-6)
    assert got.text.mask.shape == got.video.mask.shape == (ROWS, 1)


def test_levels_are_data():
    """A third level has the parts of the second, under its own name; without counts there is no merge."""
    levels = (*CONFIG.levels, Level("event", 2, 0))
    config = dataclasses.replace(CONFIG, levels=levels)
    shapes = jax.eval_shape(HBI(config).init, jax.random.key(0), on_device(BATCH))["params"]
    towers = {"text_tower", "vision_tower", "frame_transformer", "logit_scale"}
    everywhere = {f"{part}_{level.name}" for level in levels for part in ("text_weight", "video_weight", "header")}
    merges = {"text_merge_action", "video_merge_action", "text_merge_event"}
    assert set(shapes) == towers | everywhere | merges
    assert jax.tree.structure(shapes["text_merge_event"]) == jax.tree.structure(shapes["text_merge_action"])


def test_token_weight_is_its_formula():
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    layer, tokens = TokenWeight(5), Tokens(jnp.asarray(x), jnp.ones((2, 3), bool))
    params = random_params(layer, tokens)
    got = jax.jit(layer.apply)(params, tokens)
    p = params["params"]
    hidden = np.maximum(x @ p["hidden"]["kernel"] + p["hidden"]["bias"], 0)
    wanted = (hidden @ p["logit"]["kernel"] + p["logit"]["bias"])[..., 0]
    assert isinstance(got, WeightedTokens)
    np.testing.assert_allclose(got.logits, wanted, atol=1e-5)


def test_remat_reaches_every_transformer(params):
    """What it computes is test_clip's; here: as many recomputed blocks as the model has."""

    def blocks(remat):
        model = HBI(dataclasses.replace(CONFIG, remat=remat, levels=CONFIG.levels[:1]))
        text = str(jax.make_jaxpr(model.apply)(params, on_device(BATCH)))
        return text.count("remat")

    assert (
        blocks("blocks") - blocks("none") == CONFIG.clip.text_layers + CONFIG.clip.vision_layers + CONFIG.frame_layers
    )


@pytest.mark.parametrize(("platform", "wanted"), [("gpu", "cudnn"), ("cpu", "xla")])
def test_fused_attention_is_that_of_the_vision_tower_on_gpus(params, platform, wanted, monkeypatch):
    """Its attention has no mask and no bias, for which cuDNN's kernels have limits."""
    attend, fused = jax.nn.dot_product_attention, []

    def record(query, key, value, bias=None, mask=None, implementation=None, **options):
        if implementation == "cudnn":
            assert bias is None
            assert mask is None
            fused.append(query.shape)
        return attend(query, key, value, bias, mask, **options)

    monkeypatch.setattr("hbi_jax.models.clip.platform", lambda: platform)
    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    model = HBI(dataclasses.replace(CONFIG, attention="cudnn", dtype="bfloat16", scan_layers="off"))
    jax.eval_shape(model.apply, params, on_device(BATCH))
    assert len(fused) == (CONFIG.clip.vision_layers if wanted == "cudnn" else 0)


@pytest.mark.parametrize(
    ("configured", "of_jax", "wanted"),
    [("default", "default", "DEFAULT"), ("default", "highest", "HIGHEST"), ("highest", "default", "HIGHEST")],
)
def test_the_encoders_have_the_configured_precision_or_that_of_jax(params, configured, of_jax, wanted):
    model = HBI(dataclasses.replace(CONFIG, matmul_precision=configured))
    with jax.default_matmul_precision(of_jax):
        program = jax.jit(model.apply, static_argnames="method").lower(
            params, BATCH.token_ids, BATCH.text_mask, method="encode_text"
        )
    products = re.findall(r"dot_general.*", program.as_text())
    assert products
    assert all(f"precision = [{wanted}, {wanted}]" in product for product in products)


@pytest.mark.parametrize(("platform", "loops"), [("tpu", True), ("gpu", False), ("cpu", False)])
def test_layers_are_a_loop_on_tpus(params, platform, loops, monkeypatch):
    monkeypatch.setattr("hbi_jax.models.clip.platform", lambda: platform)
    program = jax.make_jaxpr(functools.partial(HBI(CONFIG).apply, method="encode_text"))(
        params, BATCH.token_ids, BATCH.text_mask
    )
    assert ("scan" in str(program)) == loops


def test_frames_in_portions_give_the_same_values_and_gradients(params):
    def energy(portions):
        model = HBI(dataclasses.replace(CONFIG, frame_portions=portions))

        def loss(params):
            encoded = model.apply(params, on_device(BATCH).frames, on_device(BATCH).frame_mask, method="encode_video")
            return jnp.sum(encoded.pooled**2) + sum(jnp.sum(level.logits**2) for level in encoded.levels.values())

        assert jax.tree.map(jnp.shape, jax.eval_shape(model.init, jax.random.key(0), on_device(BATCH))) == jax.tree.map(
            jnp.shape, params
        )
        return jax.jit(jax.value_and_grad(loss))(params)

    (one, one_grad), (five, five_grad) = energy(1), energy(FRAMES)
    np.testing.assert_allclose(five, one, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(five_grad), jax.tree.leaves(one_grad), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(b).max())))
    with pytest.raises(ValueError, match=r"5 frames do not divide into config.model.frame_portions=2"):
        energy(2)


def test_more_clusters_than_tokens_are_named():
    config = dataclasses.replace(CONFIG, levels=(Level("entity"), Level("action", 4, FRAMES + 1)))
    with pytest.raises(ValueError, match=rf"num_clusters={FRAMES + 1} of {FRAMES} tokens is impossible"):
        jax.eval_shape(HBI(config).init, jax.random.key(0), on_device(BATCH))


def test_weights_of_no_width_are_equal_weights(params):
    """Of the real tokens, and without parameters."""
    model = HBI(dataclasses.replace(CONFIG, weight_features=0))
    batch = on_device(BATCH)
    few = {"params": {name: value for name, value in params["params"].items() if "_weight_" not in name}}
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, few)
    got = jax.jit(model.apply)(few, batch)["entity"]
    cosine = np.asarray(got.pair_similarity[1])[BATCH.text_mask[1]][:, BATCH.frame_mask[1]]
    wanted = 0.5 * (cosine.max(1).mean() + cosine.max(0).mean())
    np.testing.assert_allclose(got.similarity[1, 1], wanted, atol=1e-6)


def test_published_padding_of_frames_is_grey(params, aligned):
    """The same whatever the padded frames hold; unlike black ones it reaches the merged tokens."""
    model = HBI(dataclasses.replace(CONFIG, padding="published"))
    apply = jax.jit(lambda frames: model.apply(params, on_device(BATCH)._replace(frames=frames)))
    grey = np.asarray(normalize_pixels(jnp.asarray(BATCH.frames))) * BATCH.frame_mask[..., None, None, None]
    got, wanted = apply(BATCH.frames), apply(grey)
    np.testing.assert_allclose(got["action"].video.features, wanted["action"].video.features, atol=1e-5)
    assert np.abs(got["action"].video.features[1] - aligned["action"].video.features[1]).max() > 1e-2
    assert got["action"].video.mask.all()
    np.testing.assert_array_equal(got["entity"].video.mask, BATCH.frame_mask)
