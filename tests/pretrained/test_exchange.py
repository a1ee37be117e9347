"""Foreign names to ours and back: values, sizes, bitwise round trips, and every way in which weights can be wrong."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import unflatten_dict

from hbi_jax.models.config import CLIPConfig
from hbi_jax.pretrained import PretrainedError, convert, export, from_state_dict, load, save, to_state_dict
from hbi_jax.pretrained.sources import Source, open_source
from hbi_jax.pretrained.tensors import Entry
from hbi_jax.pretrained.translate import hf_config, translate
from tests.pretrained.foreign import (
    CLIP,
    ESTIMATOR,
    HBI,
    HCMI,
    hf_names,
    random_array,
    script_module,
    tensor,
    weights,
    write_archive,
    write_state,
)

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def clip():
    return weights("clip", CLIP)


@pytest.fixture(scope="module")
def openai(clip):
    """The same with OpenAI's names."""
    return to_state_dict(clip)


@pytest.fixture(scope="module")
def hbi():
    return weights("hbi", HBI, estimator=weights("estimator", ESTIMATOR))


@pytest.fixture(scope="module")
def published(hbi):
    """A published checkpoint, whose batch normalisation was used."""
    state = to_state_dict(hbi)
    return {name: random_array(name, x.shape) if "running" in name else x for name, x in state.items()}


@pytest.fixture(scope="module")
def hf_folder(openai, tmp_path_factory):
    return write_hf(tmp_path_factory.mktemp("hf"), hf_names(openai), hf_config(CLIP))


def write_hf(folder, state, config):
    state = {name: np.array(array, order="C") for name, array in state.items()}
    safetensors.numpy.save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def assert_same(got, wanted):
    """Two trees or state dicts, bit by bit."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), path
        np.testing.assert_array_equal(a, b, err_msg=str(path))


@pytest.mark.parametrize(
    "levels", [HCMI["levels"], [["frame", 0, 0]], [["video", 1, 1]], [["frame", 0, 0], ["video", 1, 1]]]
)
def test_hcmi_as_a_folder_and_its_towers_for_others(levels, tmp_path):
    """Any hierarchy is loaded as it was saved; an export holds the CLIP in it, since others have no such model."""
    hcmi = weights("hcmi", {**HCMI, "levels": levels})
    save(tmp_path / "hcmi", hcmi)
    loaded = load(tmp_path / "hcmi")
    assert (loaded.kind, loaded.model) == ("hcmi", hcmi.model)
    assert_same(loaded.params, hcmi.params)
    export(tmp_path / "hcmi", tmp_path / "exported")
    assert not (tmp_path / "exported" / "hbi.safetensors").exists()
    convert(tmp_path / "exported", tmp_path / "clip")
    clip = load(tmp_path / "clip")
    assert clip.kind == "clip"
    assert_same(clip.params["params"], {name: hcmi.params["params"][name] for name in clip.params["params"]})


def test_hcmi_has_no_published_names():
    with pytest.raises(PretrainedError, match="the published code has no place for text_merge_clip/block_0"):
        to_state_dict(weights("hcmi", HCMI))


def test_values_of_every_layout(openai, clip):
    """Written out: one leaf of each kind of parameter."""
    text, vision = clip.params["params"]["text_tower"], clip.params["params"]["vision_tower"]
    block = text["transformer"]["resblocks_1"]
    assert_same(openai["transformer.resblocks.1.attn.in_proj_weight"], block["attn"]["in_proj"]["kernel"].T)
    assert_same(openai["transformer.resblocks.1.mlp.c_fc.weight"], block["mlp_fc"]["kernel"].T)
    assert_same(openai["transformer.resblocks.1.ln_2.weight"], block["ln_2"]["scale"])
    assert_same(openai["text_projection"], text["text_projection"]["kernel"])
    assert_same(openai["visual.proj"], vision["proj"]["kernel"])
    patches = vision["patch_embedding"]["kernel"]
    row, column, channel, feature = 2, 3, 1, 7
    assert (
        openai["visual.conv1.weight"][feature, channel, row, column]
        == patches[12 * row + 3 * column + channel, feature]
    )
    assert float(openai["logit_scale"]) == float(clip.params["params"]["logit_scale"])


def test_both_names_of_clip_are_one_model(openai, clip, hf_folder, tmp_path):
    """OpenAI's as state dict in half precision, in memory, and Hugging Face's folder."""
    buffers = {name: np.array(8) for name in ("input_resolution", "context_length", "vocab_size")}
    masks = {f"transformer.resblocks.{n}.attn_mask": np.zeros((12, 12), np.float32) for n in range(2)}
    assert_same(from_state_dict(openai | buffers | masks).params, clip.params)
    write_state(tmp_path / "half.pt", {name: array.astype(np.float16) for name, array in openai.items()})
    convert(tmp_path / "half.pt", tmp_path / "half")
    half = load(tmp_path / "half", progress=False)
    assert_same(half.params, jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), clip.params))
    convert(hf_folder, tmp_path / "hf")
    got = load(tmp_path / "hf", progress=False)
    assert_same(got.params, clip.params)
    assert (got.kind, got.config) == (half.kind, half.config) == ("clip", CLIP)


def test_openais_torchscript_archive(openai, clip, tmp_path):
    """Modules as the released files have them: nested, with buffers of sizes and a causal mask in each text layer."""
    state = {name: array.astype(np.float16) for name, array in openai.items()}
    state |= {name: np.array(8) for name in ("input_resolution", "context_length", "vocab_size")}
    state |= {f"transformer.resblocks.{n}.attn_mask": np.zeros((12, 12), np.float32) for n in range(2)}

    def module(tree):
        parts = {name: module(part) if isinstance(part, dict) else tensor(part) for name, part in tree.items()}
        return script_module("Module", **parts, training=False)

    write_archive(tmp_path / "ViT.pt", module(unflatten_dict(state, sep=".")), **{"code/__torch__/model.py": b"pass"})
    convert(tmp_path / "ViT.pt", tmp_path / "clip")
    got = load(tmp_path / "clip", progress=False)
    assert (got.kind, got.config, dict(got.unused)) == ("clip", CLIP, {})
    assert_same(got.params, jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), clip.params))


def test_hugging_face_and_back_is_bitwise(hf_folder, tmp_path):
    convert(hf_folder, tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "theirs")
    before, after = (safetensors.numpy.load_file(x / "model.safetensors") for x in (hf_folder, tmp_path / "theirs"))
    assert_same(after, before)
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert config["vision_config"]["num_attention_heads"] == 1
    assert {path.name for path in (tmp_path / "theirs").iterdir()} == {"config.json", "model.safetensors"}
    convert(tmp_path / "theirs", tmp_path / "again")
    assert_same(load(tmp_path / "again", False).params, load(tmp_path / "ours", False).params)


def test_a_published_checkpoint_and_back_is_bitwise(published, hbi, tmp_path):
    """Estimator and unused batch normalisation included, through torch's format, our folder and the export."""
    write_state(tmp_path / "pytorch_model.bin.4", published)
    convert(tmp_path / "pytorch_model.bin.4", tmp_path / "ours")
    got = load(tmp_path / "ours", progress=False)
    assert (got.kind, got.estimator.kind, got.estimator.config) == ("hbi", "estimator", ESTIMATOR)
    assert_same(got.params, hbi.params)
    assert_same(got.estimator.params, hbi.estimator.params)
    assert len(got.unused) == 4 * 5
    export(tmp_path / "ours", tmp_path / "theirs")
    assert_same(safetensors.numpy.load_file(tmp_path / "theirs" / "hbi.safetensors"), published)
    # What was exported carries its configuration, so that nothing has to be said again.
    convert(tmp_path / "theirs", tmp_path / "again")
    again = load(tmp_path / "again", progress=False)
    assert_same((again.params, dict(again.unused)), (got.params, dict(got.unused)))
    assert again.config == got.config
    tower = safetensors.numpy.load_file(tmp_path / "theirs" / "model.safetensors")
    assert_same(tower["visual_projection.weight"], published["clip.visual.proj"].T)


def test_sizes_come_from_shapes(published):
    """All but levels and heads, whose defaults are the published ones."""
    got = from_state_dict(published)
    assert got.config == HBI
    other = from_state_dict(published, num_words=30, num_frames=7)
    assert other.config["levels"] == [["entity", 0, 0], ["action", 8, 2], ["event", 4, 1]]
    assert got.model.config.padding == "published"
    assert got.model.config.levels[1].words == 6


def test_a_training_script_may_have_wrapped_it(published, hbi):
    parallel = {f"module.{name}": array for name, array in published.items()}
    assert_same(from_state_dict(parallel).params, hbi.params)


@pytest.mark.parametrize(
    ("kind", "fields", "left"),
    [
        ("caption", {"decoder_layers": 1}, "caption/"),
        ("hbi", {"reconstruction": True, "gate_features": 4, "padding": "masked"}, "text_gate_"),
    ],
)
def test_a_model_that_was_never_published(kind, fields, left):
    """Nothing of it is left out in silence."""
    with pytest.raises(PretrainedError, match=f"the published code has no place for {left}"):
        to_state_dict(weights(kind, {**HBI, **fields}))


def test_a_model_that_lacks_what_was_published():
    with pytest.raises(PretrainedError, match=r"the published code has text_weight_\w+/.* lacks; keep the"):
        to_state_dict(weights("hbi", {**HBI, "weight_features": 0}))


# One token of each side at every level.
SINGLE = [["entity", 0, 0], ["action", 1, 1], ["event", 1, 1]]


@pytest.mark.parametrize(
    ("fields", "change"),
    [
        ({"pooled": True, "levels": SINGLE}, "levels see all tokens; give them the sentence vector and the mean frame"),
        ({"header": "none"}, "a prediction header of 3x3 kernels; give it none"),
        ({"header": "mlp"}, "a prediction header of 3x3 kernels; give it one of 1x1 kernels"),
        ({"header": "cnn"}, None),
    ],
)
def test_what_the_published_code_computes_otherwise_is_logged(tmp_path, caplog, fields, change):
    source = tmp_path / "ours"
    save(source, weights("hbi", {**HBI, **fields}))
    export(source, tmp_path / "theirs", progress=False)
    told = [line for line in caplog.messages if "levels see" in line or "prediction header" in line]
    assert (change is None) == (not told)
    assert change is None or change in told[0]


def test_an_answer_checkpoint(tmp_path):
    config = {**HBI, "levels": [["entity", 0, 0], ["action", 8, 3], ["event", 1, 1]], "num_answers": 5}
    answers = weights("answer", config)
    state = to_state_dict(answers)
    got = from_state_dict(state)
    assert (got.kind, got.config) == ("answer", config)
    assert_same(got.params, answers.params)
    assert_same(to_state_dict(got), state)
    head = answers.params["params"]["answer_event"]
    assert_same(state["classifier1.2.weight"], head["logits"]["kernel"].T)
    assert_same(state["v_weight1.0.weight"], head["video_weight"]["hidden"]["kernel"].T)
    assert got.model.num_answers == 5


@pytest.mark.parametrize("kind", ["mlp", "cnn", "mlp_sa", "cnn_sa"])
def test_an_estimator_of_any_kind_and_prefix(kind):
    estimator = weights("estimator", {"kind": kind, "num_features": 4})
    state = to_state_dict(estimator)
    assert {name: array.shape for name, array in state.items() if name.startswith("bn.running")} == {
        "bn.running_mean": (4,),
        "bn.running_var": (4,),
    }
    for prefix in ("", "module.", "net.estimator."):
        got = from_state_dict({prefix + name: array for name, array in state.items()})
        assert (got.kind, got.config) == ("estimator", estimator.config)
        assert_same(got.params, estimator.params)
        assert_same(to_state_dict(got), state)


def test_names_and_shapes_of_the_published_model():
    """Of the golden run, whose names are those of the published code."""
    about = json.loads((GOLDEN / "hbi_tiny.json").read_text())
    entries = {
        name: Entry(tuple(shape), np.dtype(np.int64 if name.endswith("tracked") else np.float32), lambda: None)
        for name, shape in about["state_dict"].items()
    }
    contents = translate(Source("golden", entries, {}, {}))
    clip = about["clip"]
    assert contents.kind == "hbi"
    assert contents.config["clip"] == dataclasses.asdict(
        CLIPConfig(
            clip["res"],
            clip["patch"],
            clip["vwidth"],
            clip["vlayers"],
            clip["width"],
            clip["layers"],
            512,
            64,
            clip["vocab"],
            clip["ctx"],
        )
    )


def without(state, *names):
    return {name: array for name, array in state.items() if name not in names}


def test_missing_and_unknown_entries_are_listed(published, openai, hf_folder):
    with pytest.raises(PretrainedError, match=r"lacks banzhafmodel0\.cnn2\.bias, t_block1\.attn\.q\.bias; ") as error:
        from_state_dict(without(published, "t_block1.attn.q.bias", "banzhafmodel0.cnn2.bias"))
    assert "published HBI checkpoint" in str(error.value)
    with pytest.raises(PretrainedError, match=r"has banzhafmodel\.bn\.other, extra, of which nothing is known"):
        from_state_dict({**published, "extra": np.zeros(1), "banzhafmodel.bn.other": np.zeros(1)})
    with pytest.raises(PretrainedError, match=r"has visual\.transformer\.resblocks\.0\.attn_mask, of which"):
        from_state_dict({**openai, "visual.transformer.resblocks.0.attn_mask": np.zeros(1)})
    with pytest.raises(PretrainedError, match=r"lacks transformer\.resblocks\.2\.ln_1\.weight, .*c_proj\.bias; "):
        from_state_dict({**openai, "transformer.resblocks.2.attn.in_proj_bias": np.zeros(192, np.float32)})
    hf = safetensors.numpy.load_file(hf_folder / "model.safetensors")
    with pytest.raises(PretrainedError, match=r"lacks text_model\.final_layer_norm\.bias and has gpt, "):
        from_state_dict({**without(hf, "text_model.final_layer_norm.bias"), "gpt": np.zeros(1)})


def change(state, name, shape):
    return {**state, name: np.zeros(shape, np.float32)}


@pytest.mark.parametrize(
    ("name", "shape", "complaint"),
    [
        ("ln_final.weight", (63,), r"ln_final\.weight has shape \(63,\), wanted \(64,\) by the other parameters"),
        ("visual.conv1.weight", (64, 3, 4, 8), "positions for patches of 96 numbers: wanted square patches"),
        ("visual.conv1.weight", (64, 3, 4), "no such shape makes our vision_tower/patch_embedding/kernel"),
        ("visual.positional_embedding", (7, 64), "with 7 positions for patches of 48 numbers"),
        ("visual.proj", (64, 32), r"visual\.proj has shape \(64, 32\), wanted \(64, 64\)"),
        ("token_embedding.weight", (40,), r"embedding has shape \(40,\), wanted 2 axes"),
        ("token_embedding.weight", (40, 96), "towers 64 and 96 wide do not divide into attention heads 64 wide"),
        ("transformer.resblocks.0.ln_1.bias", (), r"resblocks\.0\.ln_1\.bias has shape \(\), wanted \(64,\)"),
    ],
)
def test_shapes_that_do_not_fit(openai, name, shape, complaint):
    with pytest.raises(PretrainedError, match=complaint):
        from_state_dict(change(openai, name, shape))


@pytest.mark.parametrize("net", ["banzhafmodel.", "banzhafmodel1.", "banzhafteacher."])
def test_batch_normalisation_of_another_width(published, net):
    """Used by nobody, and exported again all the same."""
    with pytest.raises(
        PretrainedError, match=rf"{net}bn\.weight has shape \(99,\), wanted \(4,\) as {net}cnn1\.weight"
    ):
        from_state_dict(change(published, f"{net}bn.weight", 99))
    with pytest.raises(PretrainedError, match=rf"{net}bn\.num_batches_tracked has shape \(1,\), wanted \(\)"):
        from_state_dict(change(published, f"{net}bn.num_batches_tracked", 1))


def test_what_is_no_known_model(openai, published):
    with pytest.raises(PretrainedError, match="has the key 1, wanted names of parameters"):
        from_state_dict({"a": np.zeros(3), 1: np.zeros(3)})
    with pytest.raises(PretrainedError, match="ResNet for images, which is not supported; use a ViT"):
        from_state_dict(change(openai, "visual.layer1.0.conv1.weight", (1,)))
    with pytest.raises(PretrainedError, match=r"holds no weights known here.*its entries are a, b"):
        from_state_dict({"a": np.zeros(1), "b": np.zeros(1)})
    with pytest.raises(PretrainedError, match=r"logit_scale is int64, wanted floating-point"):
        from_state_dict({**openai, "logit_scale": np.array(4)})
    for state in (openai, without(published, *(name for name in published if not name.startswith("banzhafteacher")))):
        with pytest.raises(PretrainedError, match="numbers of words and frames are for published"):
            from_state_dict(state, num_words=24)


@pytest.mark.parametrize(
    ("side", "field", "value", "complaint"),
    [
        ("text_config", "hidden_act", "gelu_new", "hidden_act is 'gelu_new' in config.json, wanted quick_gelu or gelu"),
        ("text_config", "hidden_act", "gelu", "hidden_act is 'quick_gelu' and 'gelu' in the two towers"),
        ("vision_config", "layer_norm_eps", 1e-6, "vision_config.layer_norm_eps is 1e-06"),
        ("vision_config", "num_attention_heads", 3, "has 3 attention heads for a width of 64"),
        ("vision_config", "hidden_size", 128, "hidden_size is 128 in config.json, but the weights are 64 wide"),
        ("vision_config", "num_attention_heads", "2", "vision_config has 2 attention heads"),
    ],
)
def test_hugging_face_models_that_differ(hf_folder, tmp_path, side, field, value, complaint):
    config = hf_config(CLIP)
    config[side][field] = value
    state = safetensors.numpy.load_file(hf_folder / "model.safetensors")
    with pytest.raises(PretrainedError, match=complaint):
        translate(open_source(write_hf(tmp_path, state, config)))


def test_hugging_face_folders_from_before_safetensors(openai, clip, tmp_path):
    """And heads of another width, which only config.json tells."""
    state = hf_names(openai) | {"text_model.embeddings.position_ids": np.arange(12)[None]}
    write_state(tmp_path / "pytorch_model.bin", state)
    config = hf_config({**CLIP, "head_features": 16})
    (tmp_path / "config.json").write_text(json.dumps(config))
    contents = translate(open_source(tmp_path))
    assert contents.config == {**CLIP, "head_features": 16}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "neither a torch archive nor a safetensors file"),
        (b"<!DOCTYPE html><html>", "is a web page, wanted weights; download it again"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", r"bare pickle.*torch\.save\(torch\.load"),
        (b"PK\x03\x04 and so on", "damaged or truncated archive"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{ no json      ", "no safetensors file, or a damaged one"),
    ],
)
def test_files_that_are_no_weights(tmp_path, content, complaint):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(PretrainedError, match=complaint):
        convert(path, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


def test_places_without_weights(tmp_path, hf_folder):
    with pytest.raises(PretrainedError, match=r"has no config\.json"):
        open_source(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(PretrainedError, match="holds no object"):
        open_source(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PretrainedError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        open_source(tmp_path)
    with pytest.raises(PretrainedError, match="there is no such file or folder; correct the path"):
        open_source(tmp_path / "none.pt")
    with pytest.raises(PretrainedError, match="gs://bucket/x is not on this machine"):
        open_source("gs://bucket/x")


def test_the_hub_may_be_out_of_reach(monkeypatch):
    import huggingface_hub

    def fail(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(PretrainedError, match=r"owner/clip: there is no.*could not be downloaded \(no connection\)"):
        open_source("owner/clip")


def test_a_model_of_the_hub(monkeypatch, hf_folder):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(hf_folder))
    assert translate(open_source("owner/clip")).kind == "clip"


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    path, canary = tmp_path / "evil.bin", tmp_path / "ran"
    write_archive(path, b"cbuiltins\neval\n(S'open(%r, \"w\")'\ntR." % str(canary))
    with pytest.raises(PretrainedError, match=r"evil\.bin: it asks for builtins\.eval"):
        convert(path, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.bin"]
