"""Folders of weights: what is written is what is read, all of it or nothing, and nothing of others is replaced."""

import collections
import dataclasses
import json
import os
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from hbi_jax.fields import plain
from hbi_jax.models.hbi import HBI as HBIModel
from hbi_jax.pretrained import (
    Pretrained,
    PretrainedError,
    convert,
    export,
    from_state_dict,
    load,
    save,
    to_state_dict,
)
from hbi_jax.pretrained.sizes import abstract_params, shapes_of, verify
from hbi_jax.pretrained.sources import open_source
from hbi_jax.pretrained.tensors import Entry, read_safetensors, write_safetensors
from tests.pretrained.foreign import CLIP, ESTIMATOR, HBI, weights
from tests.tiny_hbi import CONFIG, make_batch, random_params


@pytest.fixture(scope="module")
def hbi_shapes():
    return shapes_of(abstract_params("hbi", HBI))


@pytest.fixture
def estimator():
    return weights("estimator", ESTIMATOR)


@pytest.fixture
def folder(estimator, tmp_path):
    save(tmp_path / "estimator", estimator)
    return tmp_path / "estimator"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded(estimator, tmp_path):
    """From the device too, and with an estimator and unused entries beside the model."""
    unused = {"bn.num_batches_tracked": np.array(7)}
    clip = weights("clip", CLIP, estimator=estimator, unused=unused)
    on_device = Pretrained("clip", CLIP, jax.tree.map(jnp.asarray, clip.params), estimator, unused)
    save(tmp_path / "clip", on_device)
    got = load(tmp_path / "clip", progress=False)
    assert (got.kind, got.config, got.estimator.config) == ("clip", CLIP, ESTIMATOR)
    for ours, theirs in ((got.params, clip.params), (got.estimator.params, estimator.params)):
        assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(ours))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert got.unused["bn.num_batches_tracked"].dtype == np.int64
    assert dict(got.unused) == unused
    tokens = jnp.ones((1, 5), int)
    assert np.isfinite(got.model.apply(got.params, tokens, tokens > 0, jnp.zeros((1, 8, 8, 3), jnp.uint8))).all()


def test_the_folder_says_what_it_is(folder):
    assert names(folder) == ["config.json", "model.safetensors"]
    about = json.loads((folder / "config.json").read_text())
    assert about == {"format": 1, "kind": "estimator", "origin": "hbi_jax", "model": ESTIMATOR}


def test_a_section_of_a_configuration_is_a_configuration(estimator, tmp_path):
    """With more fields than the model has, for an estimator; with those of config.model, for HBI."""
    section = {**ESTIMATOR, "labels": "exact", "num_samples": 1000}
    save(tmp_path / "estimator", Pretrained("estimator", section, estimator.params))
    assert load(tmp_path / "estimator", progress=False).config == section
    config = {**HBI, "remat": "none", "frame_portions": 1, "pooled": False, "dtype": "bfloat16"}
    hbi = weights("hbi", config)
    save(tmp_path / "hbi", hbi)
    model = load(tmp_path / "hbi", progress=False).model
    assert (model.config.dtype, model.config.levels[1].frames) == ("bfloat16", 3)


def test_nothing_is_replaced_unasked(folder, estimator, tmp_path):
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(PretrainedError, match="exists already; choose another destination, or add --overwrite"):
        save(folder, estimator)
    assert (folder / "model.safetensors").read_bytes() == before
    other = Pretrained("estimator", ESTIMATOR, jax.tree.map(lambda x: x + 1, estimator.params))
    save(folder, other, overwrite=True)
    jax.tree.map(np.testing.assert_array_equal, load(folder, progress=False).params, other.params)
    assert names(tmp_path) == ["estimator"]


def test_an_empty_folder_may_be_filled(estimator, tmp_path):
    (tmp_path / "new").mkdir()
    save(tmp_path / "new", estimator)
    assert names(tmp_path / "new") == ["config.json", "model.safetensors"]
    save(tmp_path / "a" / "b", estimator)
    assert names(tmp_path / "a") == ["b"]


def test_what_others_wrote_is_never_replaced(folder, estimator, tmp_path):
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(PretrainedError, match=r"holds what hbi_jax did not write \(notes\.txt\)"):
        save(folder, estimator, overwrite=True)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    safetensors.numpy.save_file({"x": np.zeros(3)}, theirs / "model.safetensors")
    with pytest.raises(PretrainedError, match=r"did not write \(theirs\)"):
        save(theirs, estimator, overwrite=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PretrainedError, match=r"did not write \(file\)"):
        save(tmp_path / "file", estimator, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), MemoryError()])
def test_a_failure_leaves_nothing_half_written(folder, estimator, tmp_path, monkeypatch, error, exists):
    destination = folder if exists else tmp_path / "new"
    before = (folder / "model.safetensors").read_bytes()

    def fail(path, *_):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr("hbi_jax.pretrained.folder.write_safetensors", fail)
    with pytest.raises(PretrainedError if isinstance(error, OSError) else type(error)):
        save(destination, estimator, overwrite=exists)
    assert names(tmp_path) == ["estimator"]
    assert (folder / "model.safetensors").read_bytes() == before


def rewrite(folder, **changes):
    about = json.loads((folder / "config.json").read_text())
    model = {**about["model"], **changes.pop("model", {})}
    (folder / "config.json").write_text(json.dumps({**about, "model": model, **changes}))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kind": "poem"}, "weights of kind 'poem': wanted one of clip, hbi, hcmi, answer, caption, estimator"),
        ({"kind": "clip"}, "is not one (ConfigError"),
        ({"format": 2}, "is of format 2, wanted 1"),
        ({"model": {"num_features": 8}}, "num_features is 4, wanted 8"),
        ({"model": {"kind": "cnn"}}, "kind is 'cnn_sa', wanted 'cnn'"),
    ],
)
def test_a_configuration_of_another_model_is_noticed(folder, changes, complaint):
    rewrite(folder, **changes)
    with pytest.raises(PretrainedError, match=re.escape(complaint)):
        load(folder)


def test_fields_of_another_model_are_named(tmp_path):
    save(tmp_path / "clip", weights("clip", CLIP))
    rewrite(tmp_path / "clip", model={"patch_size": 8, "text_layers": 10**9})
    with pytest.raises(PretrainedError, match=r"patch_size is 4, wanted 8; text_layers is 2, wanted 1000000000"):
        load(tmp_path / "clip")
    with pytest.raises(PretrainedError, match="patch_size"):
        export(tmp_path / "clip", tmp_path / "out")
    assert names(tmp_path) == ["clip"]


def test_what_is_no_folder_of_ours(folder, tmp_path):
    with pytest.raises(PretrainedError, match=r"has no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(PretrainedError, match=r"convert it first: python -m hbi_jax\.pretrained convert"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(PretrainedError, match="cannot be read"):
        load(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(PretrainedError, match=r"model\.safetensors is no safetensors file"):
        load(folder)


def test_params_that_are_not_the_configurations_are_not_saved(estimator, tmp_path):
    with pytest.raises(PretrainedError, match="num_features is 4, wanted 8"):
        save(tmp_path / "x", Pretrained("estimator", {**ESTIMATOR, "num_features": 8}, estimator.params))
    assert names(tmp_path) == []


def test_params_that_are_no_variables_are_not_saved(estimator, tmp_path):
    for params, got in ((estimator.params["params"], "got keys conv_in"), ({"params": 3}, "keys params"), (3, "int")):
        with pytest.raises(PretrainedError, match=f"params are no variables of a model: .*{got}"):
            save(tmp_path / "x", Pretrained("estimator", ESTIMATOR, params))
    assert names(tmp_path) == []


def test_the_width_of_no_header_says_nothing(tmp_path):
    config = {**HBI, "header": "none", "header_features": 4}
    hbi = weights("hbi", config)
    save(tmp_path / "hbi", hbi)
    assert load(tmp_path / "hbi", progress=False).config == config
    assert "header_features" not in from_state_dict(to_state_dict(hbi)).config


def test_a_file_has_to_be_converted_first(tmp_path):
    (tmp_path / "X.pt").write_bytes(b"PK")
    for read in (load, lambda path: export(path, tmp_path / "out")):
        with pytest.raises(
            PretrainedError, match=r"X\.pt is a file.*convert it first: python .* convert .*X\.pt FOLDER"
        ):
            read(tmp_path / "X.pt")


def test_a_source_is_not_replaced_by_what_is_made_of_it(folder, tmp_path):
    before = (folder / "model.safetensors").read_bytes()
    for overwrite in (False, True):
        with pytest.raises(PretrainedError, match="is or holds the source"):
            export(folder, tmp_path / "estimator" / ".." / "estimator", overwrite)
    export(folder, tmp_path / "theirs")
    with pytest.raises(PretrainedError, match="is or holds the source"):
        convert(tmp_path / "theirs" / "hbi.safetensors", tmp_path / "theirs", overwrite=True)
    assert (folder / "model.safetensors").read_bytes() == before
    assert names(tmp_path / "theirs") == ["hbi.safetensors"]


def test_links_are_not_replaced(folder, estimator, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    for overwrite in (False, True):
        with pytest.raises(PretrainedError, match="link is a link; name the folder"):
            save(tmp_path / "link", estimator, overwrite)
    assert names(tmp_path) == ["estimator", "link"]
    load(tmp_path / "link", progress=False)


def test_long_names(estimator, tmp_path):
    """As long as the system takes them, and no longer."""
    save(tmp_path / ("x" * 250), estimator)
    assert names(tmp_path) == ["x" * 250]
    for use in (lambda path: save(path, estimator), load, lambda path: convert(path, tmp_path / "out")):
        with pytest.raises(PretrainedError, match=f"is no path that can be used.*{os.strerror(36)}"):
            use(tmp_path / ("x" * 300))


def test_no_folder_within_a_file(folder, estimator):
    with pytest.raises(PretrainedError, match=r"x/y cannot be made: .*config\.json is no folder; choose another"):
        save(folder / "config.json" / "x" / "y", estimator)


def test_work_folders_of_runs_are_told_how(tmp_path):
    run = tmp_path / "run"
    step = run / "checkpoints" / "500"
    step.mkdir(parents=True)
    (run / "config.json").write_text('{"model": {}}')
    says = r"hbi_jax\.pretrained\.save\(FOLDER, hbi_jax\.tasks\.weights\.load_weights\('.*run"
    for path in (run, step):
        for use in (load, open_source, lambda path: export(path, tmp_path / "out")):
            with pytest.raises(PretrainedError, match=says):
                use(path)


def test_safetensors_are_those_of_the_library(tmp_path):
    """Types that need different alignment, an empty array, a scalar and a view."""
    arrays = {
        "half": np.arange(3, dtype=np.float16),
        "long": np.array(5),
        "view": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "none": np.zeros((0, 2), np.float32),
        "truth": np.array([True, False]),
    }
    entries = {name: Entry(x.shape, x.dtype, lambda x=x: x) for name, x in arrays.items()}
    write_safetensors(tmp_path / "x", entries, {"a": "b"}, progress=False)
    for got in (safetensors.numpy.load_file(tmp_path / "x"), None):
        read, metadata = read_safetensors(tmp_path / "x")
        got = got or {name: entry.read() for name, entry in read.items()}
        assert metadata == {"a": "b"}
        assert set(got) == set(arrays)
        for name, array in arrays.items():
            assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(got[name], array)


def test_damage_ends_in_one_error(folder, estimator):
    """Flipped bits of header and configuration, and truncations; numbers have no checksum here."""
    rng, refused = random.Random(0), collections.Counter()
    for name in ("config.json", "model.safetensors"):
        good = (folder / name).read_bytes()
        for number in range(60):
            data = bytearray(good)
            place = rng.randrange(min(len(data), 600))
            data[place] ^= 1 << rng.randrange(8)
            (folder / name).write_bytes(data if number % 3 else data[: rng.randrange(len(data))])
            try:
                load(folder, progress=False)
            except PretrainedError:
                refused[name] += 1
        (folder / name).write_bytes(good)
    # What is left alone says where the weights come from, or is space.
    assert min(refused["config.json"], refused["model.safetensors"]) > 30, refused
    jax.tree.map(np.testing.assert_array_equal, load(folder, progress=False).params, estimator.params)


@pytest.mark.parametrize(
    "change",
    [
        {"levels": []},
        {"levels": 5},
        {"levels": [["entity", 0, 0], ["entity", 6, 3], ["event", 3, 2]]},
        {"levels": [["entity", 0, 0], ["action", "x", 3], ["event", 3, 2]]},
        {"levels": [["entity", 0, 0], ["action", 10**6, 3], ["event", 3, 2]]},
        {"clip": {**CLIP, "head_features": "x"}},
        {"clip": {**CLIP, "head_features": 0}},
        {"clip": None},
        {"merge_heads": 0},
        {"merge_heads": 7},
        {"frame_portions": 0},
        {"dtype": "float7"},
        {"unheard": 1},
    ],
)
def test_any_configuration_ends_in_one_error(change, hbi_shapes):
    with pytest.raises(PretrainedError):
        verify("hbi", {**HBI, **change}, hbi_shapes, "here")


def test_a_tensor_of_no_kind_is_noticed(folder):
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    safetensors.numpy.save_file({**arrays, "more": np.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(PretrainedError, match="holds more, of which nothing is known"):
        load(folder)


def test_a_model_of_equal_token_weights_is_kept_too(tmp_path):
    """It has no parameters for them."""
    config = dataclasses.replace(CONFIG, weight_features=0)
    params = random_params(HBIModel(config), jax.tree.map(jnp.asarray, make_batch(2)))
    fields = plain(config)
    save(tmp_path / "equal", Pretrained("hbi", fields, params))
    read = load(tmp_path / "equal", progress=False)
    jax.tree.map(np.testing.assert_array_equal, read.params, params)
    assert read.model.config == config
