"""`shapes-clip`: it is small, loads as any weights do, and tells stills apart that it has never seen."""

import dataclasses
import itertools
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hbi_jax
from configs.quickstart import get_config
from hbi_jax.config import parse
from hbi_jax.data.images import resize_and_crop
from hbi_jax.data.shapes.entities import SHAPES
from hbi_jax.data.shapes.stills import draw_stills
from hbi_jax.data.text import Tokenizer
from hbi_jax.fields import ConfigError, plain
from hbi_jax.models.clip import CLIP
from hbi_jax.models.config import CLIPConfig
from hbi_jax.models.hbi import HBI
from hbi_jax.models.similarity import normalize
from hbi_jax.pretrained import Pretrained, PretrainedError, load, save
from hbi_jax.pretrained.__main__ import main
from hbi_jax.pretrained.folder import write_shipped
from hbi_jax.pretrained.shipped import SHIPPED, shipped_file
from hbi_jax.tasks.task import init_model
from hbi_jax.tasks.weights import initialize
from tests.tiny_hbi import random_params

TABLE = ("text_tower", "token_embedding", "embedding")


@pytest.fixture(scope="module")
def towers():
    return load("shapes-clip")


def table_of(params):
    for name in TABLE:
        params = params[name]
    return params


def test_the_file_is_small_and_has_a_card():
    for name in SHIPPED:
        file = shipped_file(name)
        assert file.stat().st_size <= 2e6
        card = file.with_suffix(".md").read_text()
        # The card gives the command that is recorded in the file.
        header = json.loads(file.read_bytes()[8 : 8 + int.from_bytes(file.read_bytes()[:8], "little")])
        assert json.loads(header["__metadata__"]["hbi_jax"])["origin"] in card


def test_the_quickstart_starts_from_it(towers):
    assert hbi_jax.load("shapes-clip").kind == towers.kind == "clip"
    config = parse(get_config())
    assert config.init == "shapes-clip"
    assert CLIPConfig(**towers.config) == config.model.clip
    fresh = jax.device_get(init_model(HBI(config.model), config))
    params = initialize(fresh, config, "shapes-clip", "config.init")["params"]
    for tower in ("text_tower", "vision_tower"):
        jax.tree.map(np.testing.assert_array_equal, params[tower], towers.params["params"][tower])
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    # From nothing is one flag away.
    assert parse(get_config("scratch")).init == ""
    small = config.replace(
        model=dataclasses.replace(config.model, clip=CLIPConfig(**towers.config | {"vision_width": 32}))
    )
    shapes = jax.eval_shape(lambda: init_model(HBI(small.model), small))
    fresh = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    with pytest.raises(ConfigError, match=r"another configuration: vision_width is 64, wanted 32"):
        initialize(fresh, small, "shapes-clip", "config.init")


def test_it_knows_stills_that_it_has_not_seen(towers):
    """Of 64 stills with other entities, nearly all are found; of 8 with the same, half: places may be left out.

    Of 6 stills that differ in a shape alone, nearly all are found.
    """
    rng, tokenizer = random.Random("not in the training"), Tokenizer(24)
    model, params = CLIP(CLIPConfig(**towers.config)), towers.params

    def found(stills):
        # The longest of some captions leaves out the least.
        token_ids, mask = tokenizer.encode([max((still.caption(rng) for _ in range(9)), key=len) for still in stills])
        pictures = np.stack([resize_and_crop(still.picture(64), 48) for still in stills])
        _, sentences = jax.jit(lambda p, *x: model.apply(p, *x, method="encode_text"))(params, token_ids, mask)
        images = jax.jit(lambda p, x: model.apply(p, x, method="encode_image"))(params, pictures)
        return np.asarray(normalize(sentences) @ normalize(images).T)

    different = found([draw_stills(rng, 1)[0] for _ in range(64)])
    assert np.mean(different.argmax(1) == np.arange(64)) > 0.8

    def found_among(groups):
        count, size = len(groups), len(groups[0])
        alike = found([still for group in groups for still in group]).reshape(count, size, count, size)
        own = np.stack([alike[group, :, group] for group in range(count)])
        return np.mean(own.argmax(2) == np.arange(size))

    same = (group for group in iter(lambda: draw_stills(rng, 8), None) if len({still.entities for still in group}) == 1)
    assert found_among(list(itertools.islice(same, 8))) > 0.5
    single = (still for still in iter(lambda: draw_stills(rng, 1)[0], None) if len(still.entities) == 1)

    def in_every_shape(still):
        (entity,) = still.entities
        return [dataclasses.replace(still, entities=(dataclasses.replace(entity, shape=shape),)) for shape in SHAPES]

    assert found_among([in_every_shape(still) for still in itertools.islice(single, 16)]) > 0.8


def test_only_trained_rows_are_in_the_file(tmp_path):
    fields = plain(
        CLIPConfig(
            image_size=8,
            patch_size=4,
            vision_width=8,
            vision_layers=1,
            text_width=8,
            text_layers=1,
            embed_features=8,
            head_features=4,
            vocab_size=5,
        )
    )
    rows = np.array([0, 320, 736, 49406, 49407])
    inputs = jnp.zeros((1, 6), jnp.int32), jnp.ones((1, 6), bool), jnp.zeros((1, 8, 8, 3), jnp.uint8)
    model = CLIP(CLIPConfig(**fields))
    params = jax.device_get(random_params(model, *inputs))
    file = tmp_path / "small.safetensors"
    write_shipped(file, Pretrained("clip", fields, params), rows, "here")
    write_shipped(file, Pretrained("clip", fields, params), rows, "there")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert file.stat().st_size < 16_000

    from hbi_jax.pretrained import folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "shipped_file", lambda name: file)
        read, again = load("shapes-clip"), load("shapes-clip")
        assert main(["show", "shapes-clip"]) == 0
    assert read.config == {**fields, "vocab_size": 49408}
    table, trained = table_of(read.params["params"]), table_of(params["params"])
    np.testing.assert_array_equal(table, table_of(again.params["params"]))
    np.testing.assert_array_equal(table[rows], trained.astype(np.float16))
    others = np.delete(table, rows, 0)
    assert (abs(others.mean()), others.std()) == pytest.approx((0, trained.std()), rel=1e-2, abs=1e-2)
    # Everything else is what was written, in half precision.
    for part, given in zip(*(jax.tree.leaves(x["params"]["vision_tower"]) for x in (read.params, params)), strict=True):
        np.testing.assert_array_equal(part, given.astype(np.float16).astype(np.float32))


def test_a_folder_of_that_name_is_given_as_a_path(tmp_path, monkeypatch, towers):
    monkeypatch.chdir(tmp_path)
    assert load("shapes-clip").config == towers.config
    with pytest.raises(PretrainedError, match=r"has no config.json"):
        load("./shapes-clip")
    save("./shapes-clip", towers)
    assert load("./shapes-clip").config == towers.config
