"""Activation, heads and pixels, which no shape tells: read, overridden, assumed and said; held to open_clip's values.

The golden features are those of open_clip itself, see tests/golden/open_clip_tiny.py.
"""

import json
import logging

import jax
import numpy as np
import pytest
import safetensors.numpy

from hbi_jax.models.clip import CLIP
from hbi_jax.models.config import CLIPConfig
from hbi_jax.pretrained import PretrainedError, convert, export, from_state_dict, load, save, to_state_dict
from hbi_jax.pretrained.__main__ import main
from hbi_jax.pretrained.sizes import build_model, describe
from hbi_jax.pretrained.sources import Source, open_source
from hbi_jax.pretrained.tensors import from_arrays
from hbi_jax.pretrained.translate import hf_config, translate
from tests.golden import open_clip_tiny as golden
from tests.logs import told
from tests.pretrained import foreign
from tests.pretrained.foreign import hf_names, tensor, write_archive, write_state

ARRAYS = dict(np.load(golden.PATH))
STATE = golden.state_dict(
    {str(name): tuple(map(int, shape.split())) for name, shape in zip(ARRAYS["names"], ARRAYS["shapes"], strict=True)}
)
SETTINGS = {"head_features": 16, "vision_head_features": 24, "text_head_features": 0, "vision_mlp_features": 418}
PREPROCESS = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
GIVEN = {"head_width": 24, "text_head_width": 16}


def open_clip_config(quick_gelu=None, **preprocess):
    model = golden.MODEL if quick_gelu is None else {**golden.MODEL, "quick_gelu": quick_gelu}
    return {"model_cfg": model, "preprocess_cfg": PREPROCESS | preprocess}


def write_json(path, content):
    path.write_text(json.dumps(content))


def assert_golden(weights, activation):
    """Features within 1e-4 of the largest."""
    ids, images = golden.inputs()
    model = weights.model
    _, text = jax.jit(lambda p, *x: model.apply(p, *x, method=CLIP.encode_text))(weights.params, ids, ids > 0)
    image = jax.jit(lambda p, *x: model.apply(p, *x, method=CLIP.encode_image))(weights.params, images)
    for got, side in ((text, "text"), (image, "image")):
        wanted, other = (ARRAYS[f"{name}/{side}"] for name in (activation, *({"gelu", "quick_gelu"} - {activation})))
        tolerance = 1e-4 * np.abs(wanted).max()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)
        # The other activation is far outside.
        assert np.abs(got - other).max() > 10 * tolerance


@pytest.mark.parametrize("quick_gelu", [None, False, True])
@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "epoch_3.pt"])
def test_open_clip_folders(tmp_path, name, quick_gelu):
    """With their activation, heads of two widths and an MLP of a width of its own; and the file beside its config."""
    write_json(tmp_path / "open_clip_config.json", open_clip_config(quick_gelu))
    if name.endswith("safetensors"):
        safetensors.numpy.save_file(STATE, tmp_path / name)
    elif name.endswith("bin"):
        write_state(tmp_path / name, STATE)
    else:
        wrapped = {f"module.{key}": tensor(array) for key, array in STATE.items()}
        write_archive(tmp_path / name, {"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": {"state": {}}})
    activation = "quick_gelu" if quick_gelu else "gelu"
    for source in (tmp_path, tmp_path / name):
        contents = translate(open_source(source))
        assert {key: contents.config[key] for key in SETTINGS} == SETTINGS
        assert contents.config["activation"] == activation
        assert "activation and attention heads: by open_clip_config.json" in contents.notes
        assert not any("assumed" in note for note in contents.notes)
    unwrapped = {"unwrapped: the state dict under 'state_dict'", "unwrapped: names without module."}
    assert unwrapped & set(contents.notes) == (unwrapped if name.endswith("pt") else set())
    convert(tmp_path, tmp_path / "ours")
    assert_golden(load(tmp_path / "ours", progress=False), activation)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_hugging_face_folders_of_either_activation_and_back(tmp_path, activation):
    """And the export opens as the same again, by its own config.json as well as by Hugging Face's."""
    ours = from_state_dict(STATE, activation=activation, **GIVEN)
    assert_golden(ours, activation)
    config = hf_config(ours.config)
    for side, heads, hidden in (("text", 4, 256), ("vision", 4, 418)):
        section = config[f"{side}_config"]
        assert (section["hidden_act"], section["num_attention_heads"]) == (activation, heads)
        assert section["intermediate_size"] == hidden
    state = {name: np.array(array, order="C") for name, array in hf_names(STATE).items()}
    state["logit_scale"] = state["logit_scale"].reshape(1)  # As some save it.
    safetensors.numpy.save_file(state, tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", config)
    convert(tmp_path, tmp_path / "ours")
    read = load(tmp_path / "ours", progress=False)
    assert read.config == ours.config
    assert_golden(read, activation)
    export(tmp_path / "ours", tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == config
    convert(tmp_path / "back", tmp_path / "again")
    assert load(tmp_path / "again", progress=False).config == ours.config


def test_a_bare_file_says_what_was_assumed(tmp_path, capsys, caplog):
    """And again when its folder is shown; a flag overrides, in code a parameter."""
    clip = foreign.weights("clip", foreign.CLIP)
    write_state(tmp_path / "epoch.pt", to_state_dict(clip))
    source, folder = str(tmp_path / "epoch.pt"), str(tmp_path / "ours")
    assert main(["convert", source, folder]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  activation quick_gelu, vision heads 64 wide, text heads 64 wide, pixels 'clip'" in lines
    assumed = [line for line in lines if line.startswith("  assumed, as nothing tells it: ")]
    for line, flags in zip(
        assumed, ("--activation gelu", "--head-width N or --text-head-width N", "--pixels half"), strict=True
    ):
        assert line.endswith(flags)
    assert main(["show", folder]) == 0
    assert capsys.readouterr().out.splitlines() == lines[:-1]

    flags = ["--activation", "gelu", "--head-width", "32", "--text-head-width", "16", "--pixels", "half"]
    assert main(["convert", source, folder, "--overwrite", *flags]) == 0
    out = capsys.readouterr().out
    assert "activation gelu, vision heads 32 wide, text heads 16 wide, pixels 'half'" in out
    assert "assumed" not in out
    config = load(folder, progress=False).config
    assert config == {
        **foreign.CLIP,
        "activation": "gelu",
        "head_features": 16,
        "vision_head_features": 32,
        "pixels": "half",
    }

    with caplog.at_level(logging.WARNING, "hbi_jax"):
        from_state_dict(to_state_dict(clip))
    assert [record.getMessage().count("assumed") for record in told(caplog)] == [1, 1, 1]
    for wrong in ({"activation": "relu"}, {"head_width": 0}, {"text_head_width": True}, {"pixels": "grey"}):
        with pytest.raises(PretrainedError, match="wanted"):
            from_state_dict(to_state_dict(clip), **wrong)
    with pytest.raises(
        PretrainedError, match="towers 64 and 64 wide do not divide into attention heads 24 and 64 wide"
    ):
        from_state_dict(to_state_dict(clip), head_width=24)


def test_a_flag_goes_before_a_file(tmp_path):
    write_json(tmp_path / "open_clip_config.json", open_clip_config(False))
    write_state(tmp_path / "open_clip_pytorch_model.bin", STATE)
    convert(tmp_path, tmp_path / "ours", activation="quick_gelu")
    assert_golden(load(tmp_path / "ours", progress=False), "quick_gelu")
    notes = json.loads((tmp_path / "ours" / "config.json").read_text())["notes"]
    assert "activation quick_gelu as you say, against open_clip_config.json: activation gelu" in notes


@pytest.mark.parametrize(("width", "head"), [(1280, 80), (1408, 88), (1664, 104), (768, 64)])
def test_towers_as_wide_as_open_clips(width, head):
    """Heads of ViT-H, g and bigG, where nothing tells them: assumed, and said."""
    sizes = {**foreign.CLIP, "vision_width": width, "vision_head_features": 64, "vision_layers": 1}
    contents = translate_state(to_state_dict(foreign.weights("clip", sizes)))
    assert contents.config["vision_head_features"] == (0 if head == 64 else head)
    assert any(f"heads {head} wide in the vision tower and 64 in the text tower" in note for note in contents.notes)


def translate_state(state):
    return translate(Source("the state dict", from_arrays(state), {}, {}))


def test_openais_own_files_are_known():
    state = to_state_dict(foreign.weights("clip", foreign.CLIP))
    buffers = {name: np.array(8) for name in ("input_resolution", "context_length", "vocab_size")}
    assert translate_state(state | buffers).notes == (
        "activation and attention heads: by entries that only OpenAI's release has",
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"vision_cfg": {"pool_type": "avg"}}, "vision_cfg.pool_type is 'avg' in open_clip_config.json, wanted 'tok'"),
        ({"vision_cfg": {"timm_model_name": "vit"}}, "vision_cfg.timm_model_name is 'vit'"),
        ({"vision_cfg": {"act_kwargs": {"approximate": "tanh"}}}, "vision_cfg.act_kwargs is"),
        (
            {"vision_cfg": {"width": 768}},
            "vision_cfg.width is 768 in open_clip_config.json, but the weights are 96 wide",
        ),
        ({"vision_cfg": {"head_width": 36}}, "vision_cfg has heads 36 wide for a width of 96"),
        ({"vision_cfg": {"head_width": "24"}}, "vision_cfg has heads '24' wide"),
        ({"text_cfg": {"heads": 5}}, "text_cfg has 5 attention heads for a width of 64"),
        ({"text_cfg": {"pool_type": "eos"}}, "text_cfg.pool_type is 'eos'"),
        ({"text_cfg": {"hf_tokenizer_name": "facebook/xlm-v-base"}}, "wanted CLIP's own tokenizer"),
        ({"quick_gelu": "yes"}, "quick_gelu is 'yes'"),
        ({"text_cfg": None}, "no model_cfg with vision_cfg and text_cfg"),
    ],
)
def test_open_clip_models_that_differ(tmp_path, change, complaint):
    config = open_clip_config()
    for name, value in change.items():
        section = config["model_cfg"].get(name)
        value = {**section, **value} if isinstance(value, dict) else value
        config["model_cfg"] = {**config["model_cfg"], name: value}
    write_json(tmp_path / "open_clip_config.json", config)
    write_state(tmp_path / "w.pt", STATE)
    with pytest.raises(PretrainedError, match=complaint):
        translate(open_source(tmp_path))


def test_settings_of_no_effect_are_accepted(tmp_path):
    config = open_clip_config()
    config["model_cfg"]["vision_cfg"] = {**golden.MODEL["vision_cfg"], "norm_kwargs": {}, "patch_dropout": 0.5}
    write_json(tmp_path / "open_clip_config.json", config)
    write_state(tmp_path / "w.pt", STATE)
    assert translate(open_source(tmp_path)).config["activation"] == "gelu"


def test_another_model_type_is_refused(tmp_path):
    write_json(tmp_path / "config.json", {**hf_config(foreign.CLIP), "model_type": "metaclip_2"})
    safetensors.numpy.save_file(
        {name: np.array(x) for name, x in hf_names(to_state_dict(foreign.weights("clip", foreign.CLIP))).items()},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(PretrainedError, match=r"model_type is 'metaclip_2' in config\.json, wanted 'clip'"):
        translate(open_source(tmp_path))


def test_pixels_of_minus_one_to_one(tmp_path):
    """By open_clip's file, by Hugging Face's, in an export; and computed."""
    half = {"mean": [0.5, 0.5, 0.5], "std": 0.5}
    write_json(tmp_path / "open_clip_config.json", open_clip_config(**half))
    write_state(tmp_path / "w.pt", STATE)
    convert(tmp_path, tmp_path / "ours")
    weights = load(tmp_path / "ours", progress=False)
    assert weights.config["pixels"] == "half"
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    apply = jax.jit(lambda p, *x: weights.model.apply(p, *x, method=CLIP.encode_image))
    wanted = apply(weights.params, images.astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(apply(weights.params, images), wanted, atol=1e-5 * np.abs(wanted).max())

    export(tmp_path / "ours", tmp_path / "back")
    told = json.loads((tmp_path / "back" / "preprocessor_config.json").read_text())
    assert (told["image_mean"], told["image_std"]) == ([0.5] * 3, [0.5] * 3)
    export(tmp_path / "ours", tmp_path / "back", overwrite=True)
    # Without what our own export says of itself.
    arrays = safetensors.numpy.load_file(tmp_path / "back" / "model.safetensors")
    safetensors.numpy.save_file(arrays, tmp_path / "back" / "model.safetensors")
    assert translate(open_source(tmp_path / "back")).config == weights.config
    write_json(tmp_path / "back" / "preprocessor_config.json", {**told, "image_mean": [0.1, 0.2, 0.3]})
    with pytest.raises(PretrainedError, match=r"image_mean and image_std are \[0.1, 0.2, 0.3\] and"):
        translate(open_source(tmp_path / "back"))


def test_folders_from_before_keep_their_meaning(tmp_path):
    """A config.json without the fields: quick_gelu, and one width of heads."""
    fields = {name: foreign.CLIP[name] for name in list(foreign.CLIP)[:10]} | {"head_features": 16}
    clip = foreign.weights("clip", fields)
    save(tmp_path / "old", clip)
    about = json.loads((tmp_path / "old" / "config.json").read_text())
    assert about["model"] == fields
    config = load(tmp_path / "old", progress=False).model.config
    assert (config.activation, config.pixels, config.vision_heads, config.text_heads) == ("quick_gelu", "clip", 4, 4)
    assert config == CLIPConfig(**fields)
    for ends, meaning in ((True, "both"), (False, "none")):
        save(tmp_path / meaning, foreign.weights("hbi", {**foreign.HBI, "end_tokens": ends}))
        assert load(tmp_path / meaning, progress=False).model.config.end_tokens == meaning
        export(tmp_path / meaning, tmp_path / f"{meaning} back")


def test_values_out_of_range_are_no_configuration():
    for field, value in (("frame_past", -3), ("gate_bound", -1.0)):
        with pytest.raises(PretrainedError, match=rf"config.{field}={value}: wanted"):
            build_model("hbi", {**foreign.HBI, field: value})


def test_levels_are_described_by_what_they_merge():
    levels = [["entity", 0, 0], ["action", 0, 6], ["event", 3, 2]]
    told = describe("hbi", {**foreign.HBI, "levels": levels})
    assert "levels entity, action (6 frames), event (3 words, 2 frames)" in told


def test_the_published_code_is_told_what_it_lacks(tmp_path, caplog):
    """Whoever loads hbi.safetensors there; nothing where it computes the same."""
    gelu = {**foreign.HBI, "clip": {**foreign.CLIP, "activation": "gelu", "vision_head_features": 32}}
    local, past = {**foreign.HBI, "frame_window": 2}, {**foreign.HBI, "frame_past": 1}
    start, masked = {**foreign.HBI, "end_tokens": "start"}, {**foreign.HBI, "padding": "masked"}
    for name, config, says in (
        ("as published", foreign.HBI, 0),
        ("local", local, 1),
        ("past", past, 1),
        ("start", start, 1),
        ("masked", masked, 1),
        ("gelu", gelu, 1),
    ):
        caplog.clear()
        save(tmp_path / name, foreign.weights("hbi", config))
        export(tmp_path / name, tmp_path / f"{name} back")
        assert len(told(caplog)) == says
        if name == "local":
            assert "limit it to the 2 before and after a frame" in told(caplog)[0].getMessage()
        if name == "past":
            assert "frames that see themselves and the 1 before them" in told(caplog)[0].getMessage()
        if name == "start":
            assert "leave out the end token" in told(caplog)[0].getMessage()
        if name == "masked":
            assert "mask it" in told(caplog)[0].getMessage()
    caplog.clear()
    relative = {**foreign.HBI, "frame_positions": "relative"}
    save(tmp_path / "relative", foreign.weights("hbi", relative))
    assert load(tmp_path / "relative", progress=False).model.config.frame_positions == "relative"
    export(tmp_path / "relative", tmp_path / "relative back")
    assert "only the towers are exported" in caplog.text
    assert sorted(path.name for path in (tmp_path / "relative back").glob("*.safetensors")) == ["model.safetensors"]
    caplog.clear()
    export(tmp_path / "gelu", tmp_path / "gelu again")
    message = told(caplog)[0].getMessage()
    assert "trained with: activation gelu, vision heads 32 wide, text heads 64 wide" in message
