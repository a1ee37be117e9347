"""CLIP's towers: attention against its formula, what a word may see, pixels, precision and recomputation."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.models.clip import (
    Attention,
    PatchEmbedding,
    ResidualBlock,
    TextTower,
    Transformer,
    VisionTower,
    activate,
    normalize_pixels,
    quick_gelu,
)
from hbi_jax.models.config import CLIPConfig
from tests.tiny_hbi import CLIP, END, make_batch, random_params

BATCH = make_batch(4)
IMAGES = BATCH.frames[:, 0]


@pytest.fixture(scope="module")
def text_params():
    return random_params(TextTower(CLIP), jnp.asarray(BATCH.token_ids), jnp.asarray(BATCH.text_mask))


@pytest.fixture(scope="module")
def vision_params():
    return random_params(VisionTower(CLIP), jnp.asarray(IMAGES))


@pytest.fixture(scope="module")
def encode_text(text_params):
    apply = jax.jit(TextTower(CLIP).apply)
    return lambda ids, mask: apply(text_params, jnp.asarray(ids), jnp.asarray(mask))


def test_quick_gelu_by_hand():
    got = quick_gelu(jnp.array([0.0, 1.0, -1.0]))
    np.testing.assert_allclose(got, [0, 1 / (1 + np.exp(-1.702)), -1 / (1 + np.exp(1.702))], rtol=1e-6)


def test_normalize_pixels_by_hand():
    got = normalize_pixels(jnp.array([[[[0, 127, 255]]]], jnp.uint8))[0, 0, 0]
    red, green = -0.48145466 / 0.26862954, (127 / 255 - 0.4578275) / 0.26130258
    blue = (1 - 0.40821073) / 0.27577711
    np.testing.assert_allclose(got, [red, green, blue], rtol=1e-5)


def test_attention_is_its_formula():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 8)).astype(np.float32)
    mask = rng.random((2, 5, 5)) < 0.5
    mask[:, :, 0] = True
    layer = Attention(2)
    params = random_params(layer, jnp.asarray(x))
    got = jax.jit(layer.apply)(params, x, mask)

    p = params["params"]
    qkv = x @ p["in_proj"]["kernel"] + p["in_proj"]["bias"]
    heads = []
    for head in range(2):
        q, k, v = (qkv[..., part + 4 * head : part + 4 * head + 4] for part in (0, 8, 16))
        logits = np.where(mask, q @ k.swapaxes(1, 2) / 2.0, -np.inf)  # sqrt of the 4 features of a head
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v)
    wanted = np.concatenate(heads, -1) @ p["out_proj"]["kernel"] + p["out_proj"]["bias"]
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    assert not np.allclose(jax.jit(layer.apply)(params, x), wanted, atol=1e-3)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="this machine has no GPU")
def test_cudnn_rounds_attention_and_its_gradients_no_more_than_the_compiler_does():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 50, 128)), jnp.bfloat16)
    params = Attention(2).init(jax.random.key(0), x.astype(jnp.float32))

    def outputs(attention, x):
        def loss(params, x):
            return jnp.sum(jnp.square(attention.apply(params, x).astype(jnp.float32)))

        with jax.default_matmul_precision("highest"):
            return attention.apply(params, x), *jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1)))(params, x))

    exact = outputs(Attention(2), x.astype(jnp.float32))
    compiled = outputs(Attention(2, jnp.bfloat16), x)
    fused = outputs(Attention(2, jnp.bfloat16, implementation="cudnn"), x)
    for wanted, one, other in zip(exact, compiled, fused, strict=True):
        one, other = (float(jnp.linalg.norm(wanted - found.astype(jnp.float32))) for found in (one, other))
        assert other <= 2 * one + 1e-3 * float(jnp.linalg.norm(wanted))


def test_a_block_is_residual():
    """Zero output projections leave the input as it is."""
    x = jax.random.normal(jax.random.key(0), (1, 3, 8))
    block = ResidualBlock(2)
    params = random_params(block, jnp.asarray(x))
    p = params["params"]
    for part in (p["attn"]["out_proj"], p["mlp_proj"]):
        part["kernel"], part["bias"] = jnp.zeros_like(part["kernel"]), jnp.zeros_like(part["bias"])
    np.testing.assert_array_equal(jax.jit(block.apply)(params, x), x)


def test_a_word_sees_no_later_word(encode_text):
    ids = np.asarray(BATCH.token_ids).copy()
    before, _ = encode_text(ids, BATCH.text_mask)
    ids[:, 4] = np.where(ids[:, 4] == 1, 2, 1)
    after, _ = encode_text(ids, BATCH.text_mask)
    np.testing.assert_array_equal(before.features[:, :4], after.features[:, :4])
    assert np.all(np.abs(before.features[0, 4:] - after.features[0, 4:]).max(-1) > 1e-3)


def test_padding_of_a_text_changes_nothing(encode_text, text_params):
    """Neither garbage in it nor its absence."""
    ids, mask = np.asarray(BATCH.token_ids), BATCH.text_mask
    words, sentence = encode_text(ids, mask)
    garbage = np.where(mask, ids, np.random.default_rng(1).integers(0, END, ids.shape))
    words_2, sentence_2 = encode_text(garbage, mask)
    np.testing.assert_array_equal(words.features[mask], words_2.features[mask])
    np.testing.assert_array_equal(sentence, sentence_2)

    row = int(np.argmin(mask.sum(1)))
    length = int(mask[row].sum())
    assert length < mask.shape[1]
    alone = jax.jit(TextTower(CLIP).apply)(text_params, ids[row : row + 1, :length], np.ones((1, length), bool))
    np.testing.assert_allclose(alone[0].features[0], words.features[row, :length], atol=5e-6)
    np.testing.assert_allclose(alone[1][0], sentence[row], atol=5e-6)


def test_the_sentence_is_the_end_token(encode_text):
    words, sentence = encode_text(BATCH.token_ids, BATCH.text_mask)
    last = BATCH.text_mask.sum(1) - 1
    np.testing.assert_array_equal(sentence, words.features[np.arange(4), last])


def test_images_do_not_see_each_other(vision_params):
    apply = jax.jit(VisionTower(CLIP).apply)
    together = apply(vision_params, IMAGES)
    changed = IMAGES.copy()
    changed[1:] = 255 - changed[1:]
    again = apply(vision_params, changed)
    np.testing.assert_array_equal(together[0], again[0])
    assert np.abs(together[1:] - again[1:]).max(-1).min() > 1e-3


def test_patches_are_cut_row_by_row(vision_params):
    """Only the patch at row 0, column 1 differs, so only its product with the kernel and its position do."""
    grid, width = CLIP.image_size // CLIP.patch_size, CLIP.vision_width
    image = np.random.default_rng(2).normal(size=(1, CLIP.image_size, CLIP.image_size, 3)).astype(np.float32)
    tower = VisionTower(dataclasses.replace(CLIP, vision_layers=0))
    apply = jax.jit(lambda params, images: tower.apply(params, images, capture_intermediates=True))
    _, state = apply(vision_params, image)
    embedded = state["intermediates"]["patch_embedding"]["__call__"][0].reshape(1, grid * grid, width)
    patch = image[0, : CLIP.patch_size, CLIP.patch_size : 2 * CLIP.patch_size].reshape(-1)
    wanted = patch @ vision_params["params"]["patch_embedding"]["kernel"]
    np.testing.assert_allclose(embedded[0, 1], wanted, atol=1e-5)


def numpy_projection(x, params):
    """Normalises and projects tokens as the tower does after its transformer."""
    p = params["params"]
    h = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return (h * p["ln_post"]["scale"] + p["ln_post"]["bias"]) @ p["proj"]["kernel"]


@pytest.mark.parametrize("scan_layers", ["off", "on"])
def test_a_patch_is_what_the_class_token_reads_of_it_alone(vision_params, scan_layers):
    """In a layer it is the class token of a sequence of two: itself and the patch."""
    tower = VisionTower(CLIP, scan_layers=scan_layers)
    got = jax.jit(lambda params, images: tower.apply(params, images, method="patches"))(vision_params, IMAGES)
    num_patches = (CLIP.image_size // CLIP.patch_size) ** 2
    assert got.shape == (len(IMAGES), num_patches, CLIP.embed_features)

    apply = jax.jit(lambda params, images: VisionTower(CLIP).apply(params, images, capture_intermediates=True))
    _, state = apply(vision_params, IMAGES)
    x = state["intermediates"]["ln_pre"]["__call__"][0]
    block = jax.jit(ResidualBlock(CLIP.vision_heads).apply)
    layer = {"params": vision_params["params"]["transformer"]["resblocks_0"]}
    for patch in range(num_patches):
        pair = np.asarray(block(layer, x[:, jnp.array([0, 1 + patch])]))
        np.testing.assert_allclose(got[:, patch], numpy_projection(pair[:, 0], vision_params), atol=1e-5)


@pytest.mark.parametrize("scan_layers", ["off", "on"])
def test_a_patch_has_seen_the_whole_image(scan_layers):
    """In several layers: a patch's token depends on other patches, and on itself the most."""
    tower = VisionTower(dataclasses.replace(CLIP, vision_layers=3), scan_layers=scan_layers)
    params = random_params(tower, jnp.asarray(IMAGES))
    apply = jax.jit(lambda params, images: tower.apply(params, images, method="patches"))
    changed = IMAGES.copy()
    changed[:, : CLIP.patch_size, : CLIP.patch_size] = 255 - changed[:, : CLIP.patch_size, : CLIP.patch_size]
    moved = np.linalg.norm(apply(params, changed) - apply(params, IMAGES), axis=-1)
    assert moved.min() > 1e-4
    assert np.all(moved.argmax(axis=1) == 0)


def test_the_ordinary_path_normalises_the_class_token_alone(vision_params):
    apply = jax.jit(lambda params, images: VisionTower(CLIP).apply(params, images, capture_intermediates=True))
    image, state = apply(vision_params, IMAGES)
    inner = {name: state["intermediates"][name]["__call__"][0] for name in ("transformer", "ln_post")}
    assert inner["transformer"].shape == (len(IMAGES), 1 + (CLIP.image_size // CLIP.patch_size) ** 2, CLIP.vision_width)
    assert inner["ln_post"].shape == (len(IMAGES), CLIP.vision_width)
    np.testing.assert_allclose(
        image, numpy_projection(np.asarray(inner["transformer"])[:, 0], vision_params), atol=1e-5
    )


def test_uint8_is_normalised_float(vision_params):
    apply = jax.jit(VisionTower(CLIP).apply)
    got, wanted = apply(vision_params, IMAGES), apply(vision_params, normalize_pixels(jnp.asarray(IMAGES)))
    # In the mean over all values, each is off by less than four roundings of the float32 result.
    assert np.linalg.norm(got - wanted) < 4 * 2.0**-23 * np.linalg.norm(wanted)


def test_pixels_in_bfloat16_are_as_precise_as_normalised_ones():
    """Of dark, mixed and bright images; a product of pixels that are not centred would be rounded more."""
    layer, half = (PatchEmbedding(64, 8, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)) // 4 + np.array([0, 96, 192]).reshape(3, 1, 1, 1)
    pixels = jnp.asarray(images, jnp.uint8)
    params = random_params(layer, pixels)
    wanted = layer.apply(params, normalize_pixels(pixels))
    np.testing.assert_allclose(layer.apply(params, pixels), wanted, atol=1e-5)

    def error(images):
        return jnp.std(half.apply(params, images).astype(jnp.float32) - wanted, axis=(1, 2))

    assert np.all(error(pixels) < 1.2 * error(normalize_pixels(pixels)))


@pytest.mark.parametrize("kind", ["clip", "half"])
def test_patches_of_pixels_train_what_normalised_ones_train(kind):
    layer = PatchEmbedding(4, 8, kind)
    pixels = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3)), jnp.uint8)
    params = random_params(layer, pixels)

    def energy(params, images):
        return jnp.mean(jnp.sin(layer.apply(params, images)))

    got, wanted = (jax.value_and_grad(energy)(params, images) for images in (pixels, normalize_pixels(pixels, kind)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), got, wanted)


def test_bfloat16_is_close_to_float32(vision_params, text_params, encode_text):
    """Eight bits of mantissa over two layers: 3 % of the largest value. Parameters stay float32."""
    ids, mask = jnp.asarray(BATCH.token_ids), jnp.asarray(BATCH.text_mask)
    text, vision = TextTower(CLIP, dtype=jnp.bfloat16), VisionTower(CLIP, dtype=jnp.bfloat16)
    words, sentence = jax.jit(text.apply)(text_params, ids, mask)
    images = jax.jit(vision.apply)(vision_params, IMAGES)
    wanted_words, wanted_sentence = encode_text(ids, mask)
    wanted_images = jax.jit(VisionTower(CLIP).apply)(vision_params, IMAGES)
    for got, wanted in (
        (words.features[mask], wanted_words.features[mask]),
        (sentence, wanted_sentence),
        (images, wanted_images),
    ):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(got.astype(jnp.float32), wanted, atol=0.03 * float(np.abs(wanted).max()))
    shapes = jax.eval_shape(lambda: text.init(jax.random.key(0), ids, mask))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("remat", ["elementwise", "blocks"])
def test_remat_changes_neither_values_nor_gradients(vision_params, remat):
    images = jnp.asarray(IMAGES[:2])

    def energy(remat):
        return jax.jit(jax.value_and_grad(lambda p: jnp.sum(VisionTower(CLIP, remat).apply(p, images) ** 2)))

    (value, gradient), (value_2, gradient_2) = energy("none")(vision_params), energy(remat)(vision_params)
    np.testing.assert_allclose(value, value_2, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), gradient, gradient_2)
    assert "remat" in str(jax.make_jaxpr(energy(remat))(vision_params))
    assert "remat" not in str(jax.make_jaxpr(energy("none"))(vision_params))


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match=r"images are 8x16 pixels, the model was built for 16x16"):
        jax.eval_shape(VisionTower(CLIP).init, jax.random.key(0), jnp.zeros((1, 8, 16, 3), jnp.uint8))
    with pytest.raises(ValueError, match=r"texts of 13 tokens.*positions for 12.*num_words <= 12"):
        jax.eval_shape(TextTower(CLIP).init, jax.random.key(0), jnp.ones((1, 13), int), jnp.ones((1, 13), bool))


def test_gelu_by_hand():
    """The exact one, by the error function."""
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    wanted = [0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x.tolist()]
    np.testing.assert_allclose(activate(jnp.asarray(x), "gelu"), wanted, atol=1e-6)
    np.testing.assert_array_equal(activate(jnp.asarray(x), "quick_gelu"), quick_gelu(jnp.asarray(x)))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_mlp_of_a_block_is_its_formula(activation):
    """Of any hidden width: with a zero attention output, a block adds its MLP to the input."""
    x = np.random.default_rng(0).normal(size=(1, 3, 8)).astype(np.float32)
    block = ResidualBlock(2, activation=activation, mlp_features=12)
    params = random_params(block, jnp.asarray(x))
    p = params["params"]
    p["attn"]["out_proj"] = jax.tree.map(jnp.zeros_like, p["attn"]["out_proj"])
    assert p["mlp_fc"]["kernel"].shape == (8, 12)
    h = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    h = h * p["ln_2"]["scale"] + p["ln_2"]["bias"]
    h = np.asarray(h @ p["mlp_fc"]["kernel"] + p["mlp_fc"]["bias"])
    share = {"gelu": (1 + np.vectorize(math.erf)(h / math.sqrt(2))) / 2, "quick_gelu": 1 / (1 + np.exp(-1.702 * h))}
    h = h * share[activation]
    wanted = x + h @ p["mlp_proj"]["kernel"] + p["mlp_proj"]["bias"]
    np.testing.assert_allclose(jax.jit(block.apply)(params, jnp.asarray(x)), wanted, atol=1e-5 * np.abs(wanted).max())


def test_each_tower_has_heads_of_its_own_width():
    config = CLIPConfig(vision_width=1280, vision_head_features=80, text_width=1024, embed_features=1024)
    assert (config.vision_heads, config.text_heads, config.joint_heads) == (16, 16, 16)
    config = dataclasses.replace(config, text_head_features=128, head_features=32)
    assert (config.vision_heads, config.text_heads, config.joint_heads) == (16, 8, 32)
    assert (CLIPConfig().vision_heads, CLIPConfig().text_heads, CLIPConfig().joint_heads) == (12, 8, 8)


@pytest.mark.parametrize("change", [{"text_head_features": 8}, {"activation": "gelu"}, {"head_features": 8}])
def test_settings_that_no_parameter_shows_change_what_is_computed(text_params, encode_text, change):
    _, before = encode_text(BATCH.token_ids, BATCH.text_mask)
    tower = TextTower(dataclasses.replace(CLIP, **change))
    _, after = jax.jit(tower.apply)(text_params, jnp.asarray(BATCH.token_ids), jnp.asarray(BATCH.text_mask))
    assert np.abs(before - after).max() > 1e-3


def test_pixels_of_minus_one_to_one():
    images = jnp.array([[[[0, 127, 255]]]], jnp.uint8)
    np.testing.assert_allclose(normalize_pixels(images, "half")[0, 0, 0], [-1, 127 / 127.5 - 1, 1], atol=1e-6)


@pytest.mark.parametrize("remat", ["auto", "none", "elementwise", "blocks"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loop_over_the_layers_changes_neither_values_nor_gradients(remat, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 8)), dtype)
    mask = jnp.tile(jnp.tril(jnp.ones((5, 5), bool)), (2, 1, 1))
    params = random_params(Transformer(3, 2), x.astype(jnp.float32), mask)

    def energy(scan_layers):
        model = Transformer(3, 2, remat, dtype, scan_layers=scan_layers)
        return jax.value_and_grad(lambda p, x: jnp.sum(model.apply(p, x, mask).astype(jnp.float32) ** 2), (0, 1))

    wanted, got = (jax.jit(energy(scan_layers))(params, x) for scan_layers in ("off", "on"))
    rtol = 1e-5 if dtype == "float32" else 0.05
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            x.astype(np.float32), y.astype(np.float32), rtol=rtol, atol=rtol * abs(np.asarray(y, np.float32)).max()
        ),
        got,
        wanted,
    )
    loop, layers, default = (str(jax.make_jaxpr(energy(name))(params, x)) for name in ("on", "off", "auto"))
    assert "scan[" in loop
    assert ("remat" in loop) == (remat != "none")
    assert "scan[" not in layers
    assert ("remat" in layers) == (remat in ("elementwise", "blocks"))
    # On CPU, `auto` is `off`.
    assert default.count("scan[") == 0
