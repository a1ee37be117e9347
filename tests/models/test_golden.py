"""The model against values that the published implementation computed, with the same parameters.

Parameters are not stored: `golden/recipe.py` makes each from its published name, its shape and a seed. Where a row
has no padding, our default equals the published computation, and this is asserted for every intermediate value.
Padded texts (rows 1 to 3) differ after the first merge by design: here padding joins no cluster, is zeroed before
the merge's convolution and the mask goes along, in the published code padding is clustered like words and every
cluster counts. In the same way the header reads padding as zero and does not attend to it.
"""

import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.banzhaf.estimator import InteractionNet
from hbi_jax.models.clip import CLIPConfig
from hbi_jax.models.hbi import HBI, HBIConfig, Level, gallery_similarity
from hbi_jax.types import Batch

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
CLIP = CLIPConfig(
    image_size=32,
    patch_size=16,
    vision_width=128,
    vision_layers=2,
    text_width=512,
    text_layers=2,
    vocab_size=1000,
    context_length=32,
)
# The published names of the three levels' parts end in nothing, 0 and 1.
SUFFIX = {"entity": "", "action": "0", "event": "1"}
LEVELS = (Level("entity"), Level("action", 6, 6), Level("event", 3, 2))
TOLERANCE = 2e-5  # of the largest value: float32, sums in another order


def published_parameters() -> dict[str, np.ndarray]:
    spec = importlib.util.spec_from_file_location("recipe", FOLDER / "recipe.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    about = json.loads((FOLDER / "hbi_tiny.json").read_text())
    return {name: recipe.parameter(name, tuple(shape), about["seed"]) for name, shape in about["state_dict"].items()}


class Converter:
    """From the published names to our tree, counting what was used."""

    def __init__(self, published: dict[str, np.ndarray]):
        self.published = published
        self.used: set[str] = set()

    def __call__(self, name: str) -> np.ndarray:
        self.used.add(name)
        return self.published[name]

    def linear(self, name: str) -> dict:
        return {"kernel": self(f"{name}.weight").T, "bias": self(f"{name}.bias")}

    def norm(self, name: str) -> dict:
        return {"scale": self(f"{name}.weight"), "bias": self(f"{name}.bias")}

    def transformer(self, name: str) -> dict:
        return {f"resblocks_{layer}": self.block(f"{name}.resblocks.{layer}") for layer in range(2)}

    def block(self, name: str) -> dict:
        fused = {"kernel": self(f"{name}.attn.in_proj_weight").T, "bias": self(f"{name}.attn.in_proj_bias")}
        return {
            "ln_1": self.norm(f"{name}.ln_1"),
            "ln_2": self.norm(f"{name}.ln_2"),
            "attn": {"in_proj": fused, "out_proj": self.linear(f"{name}.attn.out_proj")},
            "mlp_fc": self.linear(f"{name}.mlp.c_fc"),
            "mlp_proj": self.linear(f"{name}.mlp.c_proj"),
        }

    def merge(self, side: str, step: int) -> dict:
        merge, block = f"{side}_ctm{step}", f"{side}_block{step}"
        return {
            "conv": {"kernel": self(f"{merge}.conv.conv.weight").transpose(2, 1, 0)},
            "norm": self.norm(f"{merge}.norm"),
            "score": self.linear(f"{merge}.score"),
            "attention_norm": self.norm(f"{block}.norm1"),
            "attention": {part: self.linear(f"{block}.attn.{part}") for part in ("q", "kv", "proj")},
        }

    def weight(self, name: str) -> dict:
        return {"hidden": self.linear(f"{name}.0"), "logit": self.linear(f"{name}.2")}

    def header(self, name: str) -> dict:
        def convolution(layer: str) -> dict:
            kernel = self(f"{name}.{layer}.weight").transpose(2, 3, 1, 0)
            return {"kernel": kernel, "bias": self(f"{name}.{layer}.bias")}

        attention = {
            ours: {"kernel": self(f"{name}.{theirs}")}
            for ours, theirs in (("query", "Q"), ("key", "K"), ("value", "V"))
        }
        return {"conv_in": convolution("cnn1"), "conv_out": convolution("cnn2"), **attention}

    def model(self) -> dict:
        patches = self("clip.visual.conv1.weight")
        tree = {
            "text_tower": {
                "token_embedding": {"embedding": self("clip.token_embedding.weight")},
                "positional_embedding": self("clip.positional_embedding"),
                "transformer": self.transformer("clip.transformer"),
                "ln_final": self.norm("clip.ln_final"),
                "text_projection": {"kernel": self("clip.text_projection")},
            },
            "vision_tower": {
                "patch_embedding": {"kernel": patches.transpose(2, 3, 1, 0).reshape(-1, patches.shape[0])},
                "class_embedding": self("clip.visual.class_embedding"),
                "positional_embedding": self("clip.visual.positional_embedding"),
                "ln_pre": self.norm("clip.visual.ln_pre"),
                "ln_post": self.norm("clip.visual.ln_post"),
                "proj": {"kernel": self("clip.visual.proj")},
                "transformer": self.transformer("clip.visual.transformer"),
            },
            "frame_transformer": {
                "positional_embedding": self("frame_position_embeddings.weight"),
                "transformer": self.transformer("transformerClip"),
            },
            "logit_scale": self("clip.logit_scale"),
        }
        for side, letter in (("text", "t"), ("video", "v")):
            for step, level in enumerate(("action", "event")):
                tree[f"{side}_merge_{level}"] = self.merge(letter, step)
            for level, suffix in SUFFIX.items():
                tree[f"{side}_weight_{level}"] = self.weight(f"{side}_weight_fc{suffix}")
        for level, suffix in SUFFIX.items():
            tree[f"header_{level}"] = self.header(f"banzhafmodel{suffix}")
        return {"params": tree}


@pytest.fixture(scope="module")
def golden():
    with np.load(FOLDER / "hbi_tiny.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def converter():
    return Converter(published_parameters())


@pytest.fixture(scope="module")
def params(converter):
    return converter.model()


@pytest.fixture(scope="module")
def computed(golden, params):
    """Alignments, sentence vectors and gallery similarities of the golden batch."""
    model = HBI(HBIConfig(clip=CLIP, levels=LEVELS, frame_layers=2, max_frames=32, weight_features=1024))
    batch = Batch(
        token_ids=golden["text_ids"],
        text_mask=golden["text_mask"].astype(bool),
        frames=golden["video"].transpose(0, 1, 3, 4, 2),
        frame_mask=golden["video_mask"].astype(bool),
        video_index=np.arange(4),
        record_index=np.arange(4),
        example_mask=np.ones(4, bool),
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)

    @jax.jit
    def compute(params, batch):
        text = model.apply(params, batch.token_ids, batch.text_mask, method=HBI.encode_text)
        video = model.apply(params, batch.frames, batch.frame_mask, method=HBI.encode_video)
        rates = {"100": (1.0, 0.0, 0.0), "010": (0.0, 1.0, 0.0), "001": (0.0, 0.0, 1.0)}
        gallery = {name: gallery_similarity(text, video, rate) for name, rate in rates.items()}
        return model.apply(params, batch), text, video, gallery

    return compute(params, jax.tree.map(jnp.asarray, batch))


def assert_near(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


def test_rows_are_padded_as_the_comments_say(golden):
    assert golden["text_mask"].sum(1).tolist() == [24, 20, 21, 23]
    assert golden["video_mask"].all()


def test_every_published_parameter_is_used(converter, params):
    """But for the estimator, which is another model, and a batch norm that the published code never calls."""
    assert params
    unused = {name for name in set(converter.published) - converter.used if not name.startswith("banzhafteacher")}
    assert {name.split(".")[0] for name in unused} == {"banzhafmodel", "banzhafmodel0", "banzhafmodel1"}
    assert {name.split(".")[1] for name in unused} == {"bn"}


def test_words_and_sentences(computed, golden):
    alignments, text, _, _ = computed
    real = golden["text_mask"].astype(bool)
    words = np.asarray(alignments["entity"].text.features)
    assert_near(words[real], golden["text_feat"][real])
    assert_near(text.pooled, golden["cls"])


def test_frames(computed, golden):
    alignments, _, video, _ = computed
    assert_near(alignments["entity"].video.features, golden["video_feat"])
    assert_near(video.pooled, golden["video_feat"].mean(1))


def test_entity_similarity_of_all_rows(computed, golden):
    alignments, _, _, gallery = computed
    assert_near(alignments["entity"].similarity, golden["entity_level_sim"])
    assert_near(alignments["entity"].pair_similarity, golden["entity_level_align_diag"])
    assert_near(gallery["100"], golden["sim_rate_100"])


@pytest.mark.parametrize(("level", "step"), [("action", 0), ("event", 1)])
def test_merged_tokens(computed, golden, level, step):
    alignment = computed[0][level]
    assert_near(alignment.video.features, golden[f"v_block{step}.0"])
    assert_near(alignment.text.features[0], golden[f"t_block{step}.0"][0])


@pytest.mark.parametrize(("level", "rate"), [("action", "010"), ("event", "001")])
def test_similarity_of_merged_tokens(computed, golden, level, rate):
    """Of the unpadded text with every video."""
    alignments, _, _, gallery = computed
    assert_near(alignments[level].similarity[0], golden[f"{level}_level_sim"][0])
    assert_near(alignments[level].pair_similarity[0], golden[f"{level}_level_align_diag"][0])
    assert_near(gallery[rate][0], golden[f"sim_rate_{rate}"][0])


@pytest.mark.parametrize("level", SUFFIX)
def test_header_of_the_unpadded_row(computed, golden, level):
    assert_near(computed[0][level].pair_prediction[0], golden[f"banzhafmodel{SUFFIX[level]}.0"][0, 0])


@pytest.mark.parametrize("level", SUFFIX)
def test_header_and_estimator_without_masks(converter, golden, level):
    """Told that every cell is real, the network computes what the published one does, padding included."""
    similarity = jnp.asarray(golden[f"{level}_level_align_diag"])
    apply = jax.jit(InteractionNet("cnn_sa", 64).apply)
    header = {"params": converter.header(f"banzhafmodel{SUFFIX[level]}")}
    assert_near(apply(header, similarity), golden[f"banzhafmodel{SUFFIX[level]}.0"][:, 0])
    estimator = {"params": converter.header("banzhafteacher")}
    row = list(SUFFIX).index(level)
    assert_near(apply(estimator, similarity), golden[f"banzhafteacher.{row}"][:, 0])
