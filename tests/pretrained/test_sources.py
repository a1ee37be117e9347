"""Weights as people have them: shards, variants, configurations beside a file, and names that wrappers made."""

import json

import numpy as np
import pytest
import safetensors.numpy

from hbi_jax.pretrained import PretrainedError, from_state_dict, to_state_dict
from hbi_jax.pretrained.sources import Source, open_source
from hbi_jax.pretrained.tensors import from_arrays
from hbi_jax.pretrained.translate import hf_config, translate
from tests.pretrained import foreign
from tests.pretrained.foreign import CLIP, HBI, hf_names, tensor, write_archive, write_state

OPENAI = to_state_dict(foreign.weights("clip", CLIP))
HF = {name: np.array(array, order="C") for name, array in hf_names(OPENAI).items()}


@pytest.fixture
def folder(tmp_path):
    """With the configuration of a Hugging Face CLIP."""
    (tmp_path / "config.json").write_text(json.dumps(hf_config({**CLIP, "activation": "gelu"})))
    return tmp_path


def assert_all(source):
    """Everything is read, with the configuration beside it; returns the notes."""
    contents = translate(open_source(source))
    assert contents.config == {**CLIP, "activation": "gelu"}
    assert_clip(contents)
    return contents.notes


def assert_clip(contents):
    wanted = translate(from_memory(OPENAI)).entries
    assert contents.entries.keys() == wanted.keys()
    for name, entry in contents.entries.items():
        np.testing.assert_array_equal(entry.read(), wanted[name].read(), err_msg=name)


def from_memory(state):
    return Source("the state dict", from_arrays(state), {}, {})


def write_shards(folder, name, variant=""):
    """Three shards and their index, under the names that transformers gives them."""
    stem, _, ending = name.rpartition(".")
    stem += variant
    names, table = sorted(HF), {}
    for number in range(3):
        file = f"{stem}-{number + 1:05}-of-00003.{ending}"
        part = {key: HF[key] for key in names[number::3]}
        table |= dict.fromkeys(part, file)
        (safetensors.numpy.save_file if ending == "safetensors" else lambda x, p: write_state(p, x))(
            part, folder / file
        )
    index = folder / f"{name}.index{variant}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))
    return index


@pytest.mark.parametrize("variant", ["", ".fp16"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_shards(folder, name, variant):
    index = write_shards(folder, name, variant)
    for source in (folder, index):
        assert f"3 shards by {index.name}" in assert_all(source)


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "pytorch_model.bf16.bin"])
def test_one_variant(folder, name):
    write = safetensors.numpy.save_file if name.endswith("safetensors") else lambda x, p: write_state(p, x)
    write(HF, folder / name)
    assert f"weights of {name}" in assert_all(folder)
    # The file itself finds its configuration, too.
    assert not any("assumed: activation" in note for note in assert_all(folder / name))
    (folder / "model.int8.safetensors").write_bytes((folder / name).read_bytes())
    if name.endswith("safetensors"):
        with pytest.raises(
            PretrainedError, match=r"holds model\.fp16\.safetensors, model\.int8\.safetensors: wanted one"
        ):
            open_source(folder)
    # Weights without a variant go before those with one.
    safetensors.numpy.save_file(HF, folder / "model.safetensors")
    assert not any("weights of" in note for note in assert_all(folder))


def test_incomplete_shards_are_named(folder):
    index = write_shards(folder, "model.safetensors")
    about = json.loads(index.read_text())
    second = folder / "model-00002-of-00003.safetensors"
    held = second.read_bytes()
    second.unlink()
    with pytest.raises(
        PretrainedError, match=r"lacks model-00002-of-00003\.safetensors, named in model\.safetensors\.index"
    ):
        open_source(folder)
    safetensors.numpy.save_file({"other": np.zeros(1, np.float32)}, second)
    with pytest.raises(
        PretrainedError, match=r"is not in model-00002-of-00003\.safetensors, where model\.safetensors\.index"
    ):
        open_source(folder)
    second.write_bytes(held)
    forgotten = {name: file for name, file in about["weight_map"].items() if name != "logit_scale"}
    index.write_text(json.dumps({"weight_map": forgotten}))
    assert_all(folder)
    index.unlink()
    with pytest.raises(PretrainedError, match=r"shards such as model-00001-of-00003\.safetensors but no index"):
        open_source(folder)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "", ".", "..", 3, None])
def test_an_index_names_files_beside_it(folder, file):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"logit_scale": file}}))
    with pytest.raises(PretrainedError, match="weight_map names no files beside it"):
        open_source(folder)


def test_a_folder_with_both_makes_is_hugging_faces(folder):
    """As LAION's on the hub; open_clip's file beside the same configurations is read by open_clip's."""
    safetensors.numpy.save_file(HF, folder / "model.safetensors")
    write_state(folder / "open_clip_pytorch_model.bin", OPENAI)
    sizes = {"image_size": 8, "layers": 2, "width": 64, "patch_size": 4, "head_width": 32}
    text = {"context_length": 12, "vocab_size": 40, "width": 64, "heads": 1, "layers": 2}
    model = {"embed_dim": 64, "quick_gelu": True, "vision_cfg": sizes, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    assert_all(folder)
    contents = translate(open_source(folder / "open_clip_pytorch_model.bin"))
    assert contents.config == {**CLIP, "vision_head_features": 32}


@pytest.mark.parametrize("content", ["no json", "[]", '{"model_type": "bert", "text_config": {}}'])
def test_a_file_beside_what_is_of_another_program(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    write_state(tmp_path / "clip.pt", OPENAI)
    assert translate(open_source(tmp_path / "clip.pt")).config == CLIP


def test_a_folder_whose_weights_have_a_name_of_their_own(folder):
    write_state(folder / "mine.pt", OPENAI)
    with pytest.raises(PretrainedError, match=r"is it mine\.pt\? Name the file itself"):
        open_source(folder)
    assert_all(folder / "mine.pt")


@pytest.mark.parametrize(
    "wrap",
    [
        "module.{}",
        "clip.{}",
        "model.{}",
        "_orig_mod.{}",
        "_orig_mod.module.{}",
        "module.clip.{}",
        "model.backbone.clip_model.{}",
    ],
)
@pytest.mark.parametrize("state", [OPENAI, HF], ids=["openai", "hf"])
def test_names_that_all_start_alike(wrap, state):
    contents = translate(from_memory({wrap.format(name): array for name, array in state.items()}))
    assert_clip(contents)
    (note,) = (note for note in contents.notes if "unwrapped" in note)
    assert all(f"{part}." in note for part in wrap.removesuffix(".{}").split("."))


def test_wrappers_within_names():
    """Of a tower that was compiled or spread on its own, and of open_clip's custom text towers."""
    state = {name.replace("visual.", "visual._orig_mod."): array for name, array in OPENAI.items()}
    assert_clip(translate(from_memory(state)))
    state = {name.replace("visual.", "visual.module."): array for name, array in OPENAI.items()}
    assert_clip(translate(from_memory(state)))
    own = ("visual.", "logit_scale")
    state = {name if name.startswith(own) else f"text.{name}": array for name, array in OPENAI.items()}
    contents = translate(from_memory(state))
    assert_clip(contents)
    assert "unwrapped: names without text." in contents.notes


def test_a_wrapped_hbi_keeps_its_clip():
    hbi = foreign.weights("hbi", HBI)
    for wrap in ("{}", "module.{}", "model._orig_mod.{}"):
        got = from_state_dict({wrap.format(name): array for name, array in to_state_dict(hbi).items()})
        assert (got.kind, got.config) == ("hbi", HBI)


def test_wrapping_that_hides_nothing_is_left():
    """What is not known is listed under its own names, and two entries never become one."""
    with pytest.raises(PretrainedError, match=r"its entries are module\.a, module\.b"):
        translate(from_memory({"module.a": np.zeros(1), "module.b": np.zeros(1)}))
    both = {**OPENAI, "module.logit_scale": np.zeros((), np.float32)}
    with pytest.raises(PretrainedError, match=r"has module\.logit_scale, of which nothing is known"):
        translate(from_memory(both))


def test_a_checkpoint_of_a_training_run_says_under_which_key(tmp_path):
    tensors = {f"_orig_mod.{name}": tensor(array) for name, array in OPENAI.items()}
    write_archive(tmp_path / "last.pt", {"model": {"state_dict": tensors}, "step": 3, "state_dict": {}})
    contents = translate(open_source(tmp_path / "last.pt"))
    assert_clip(contents)
    assert "unwrapped: the state dict under 'state_dict' in 'model'" in contents.notes
    assert "unwrapped: names without _orig_mod." in contents.notes
