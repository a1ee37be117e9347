"""CLIP as a model of its own; at the size of ViT-B/32 against transformers' CLIPModel, which needs torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax import pretrained
from hbi_jax.models.clip import CLIP, TextTower, VisionTower
from hbi_jax.models.config import CLIPConfig
from hbi_jax.models.hbi import HBI
from tests.tiny_hbi import CLIP as TINY
from tests.tiny_hbi import CONFIG, make_batch, random_params

BATCH = make_batch(3)
INPUTS = jnp.asarray(BATCH.token_ids), jnp.asarray(BATCH.text_mask), jnp.asarray(BATCH.frames[:2, 0])


def test_logits_are_scaled_cosines_of_the_towers():
    model = CLIP(TINY)
    params = random_params(model, *INPUTS)
    tree = params["params"]
    _, text = jax.jit(TextTower(TINY).apply)({"params": tree["text_tower"]}, *INPUTS[:2])
    image = jax.jit(VisionTower(TINY).apply)({"params": tree["vision_tower"]}, INPUTS[2])
    text, image = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (text, image))
    logits = jax.jit(model.apply)(params, *INPUTS)
    np.testing.assert_allclose(logits, np.exp(tree["logit_scale"]) * (text @ image.T), atol=2e-5)


def test_parameters_are_a_part_of_those_of_hbi():
    def shapes(model, *inputs):
        tree = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
        return jax.tree.map(lambda leaf: leaf.shape, tree)

    ours, wanted = shapes(CLIP(CONFIG.clip), *INPUTS), shapes(HBI(CONFIG), BATCH)
    assert ours == {name: wanted[name] for name in ("text_tower", "vision_tower", "logit_scale")}


@pytest.mark.slow
def test_vit_b_32_equals_transformers(tmp_path):
    """Features of random weights within 1e-4 of the largest; and the exported folder opens with equal arrays."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    torch.manual_seed(0)
    theirs = transformers.CLIPModel(transformers.CLIPConfig()).eval()
    theirs.save_pretrained(tmp_path / "hf")
    pretrained.convert(tmp_path / "hf", tmp_path / "ours")
    weights = pretrained.load(tmp_path / "ours")
    assert weights.kind == "clip"
    assert CLIPConfig(**weights.config) == CLIPConfig()

    rng = np.random.default_rng(0)
    ids = rng.integers(1, 49000, (3, 77))
    lengths = np.array([77, 20, 5])
    ids[np.arange(3), lengths - 1] = 49407
    mask = np.arange(77) < lengths[:, None]
    ids = np.where(mask, ids, 0)
    images = rng.normal(size=(3, 224, 224, 3)).astype(np.float32)

    def features(model):
        with torch.no_grad():
            text = model.get_text_features(torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)))
            image = model.get_image_features(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        return tuple(getattr(x, "pooler_output", x).numpy() for x in (text, image))

    wanted = features(theirs)
    model = weights.model
    _, text = jax.jit(lambda p, *x: model.apply(p, *x, method=CLIP.encode_text))(weights.params, ids, mask)
    image = jax.jit(lambda p, *x: model.apply(p, *x, method=CLIP.encode_image))(weights.params, images)
    for got, want in zip((text, image), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())

    pretrained.export(tmp_path / "ours", tmp_path / "back")
    again = transformers.CLIPModel.from_pretrained(tmp_path / "back").eval()
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    for got, want in zip(features(again), wanted, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_small_towers_of_other_heads_equal_transformers(tmp_path, activation):
    """Activation, heads and MLPs of a width of their own, there and back, within 1e-4 of the largest feature."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    common = {"hidden_act": activation, "num_hidden_layers": 2, "projection_dim": 48}
    text = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "vocab_size": 64, **common}
    text |= {"max_position_embeddings": 12, "eos_token_id": 63, "bos_token_id": 62}
    vision = {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 418, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config={**vision, **common}, projection_dim=48)
    theirs = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "hf")
    pretrained.convert(tmp_path / "hf", tmp_path / "ours")
    pretrained.export(tmp_path / "ours", tmp_path / "back")

    ids = np.array([[62, *range(1, 11), 63], [62, 5, 63, *9 * [0]]])
    mask = np.array([12 * [True], 3 * [True] + 9 * [False]])
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    weights = pretrained.load(tmp_path / "ours", progress=False)
    model = weights.model
    _, text = jax.jit(lambda p, *x: model.apply(p, *x, method=CLIP.encode_text))(weights.params, ids, mask)
    image = jax.jit(lambda p, *x: model.apply(p, *x, method=CLIP.encode_image))(weights.params, images)
    for other in (theirs, transformers.CLIPModel.from_pretrained(tmp_path / "back").eval()):
        with torch.no_grad():
            wanted = (
                other.get_text_features(torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))),
                other.get_image_features(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())),
            )
        for got, want in zip((text, image), wanted, strict=True):
            want = getattr(want, "pooler_output", want).numpy()
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
