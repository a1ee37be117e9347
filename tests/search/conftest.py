"""A tiny model opened for search, and rendered videos: short ones, and a long one."""

import dataclasses
import functools
import pathlib
import shutil

import jax
import jax.numpy as jnp
import pytest

from hbi_jax.data import shapes
from hbi_jax.models.hbi import HBI
from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.search import encoder as encoders
from hbi_jax.search.clips import ClipSettings
from hbi_jax.search.config import SearchConfig
from hbi_jax.search.encoder import Encoder
from hbi_jax.search.index import Index
from hbi_jax.search.store import Manifest, writing
from tests.tiny_hbi import CLIP, CONFIG, FRAMES, SIDE, make_batch, random_params

WORDS = 12
MODEL = dataclasses.replace(CONFIG, clip=dataclasses.replace(CLIP, vocab_size=49408, context_length=WORDS))
# The long video lasts 12 s.
LENGTH, STRIDE = 4.0, 2.0


@functools.cache
def parameters(config=MODEL):
    """Random parameters of a tiny HBI."""
    return random_params(HBI(config), jax.tree.map(jnp.asarray, make_batch(2)))


def tiny_encoder(config=MODEL, rates=(1.0, 0.5), devices: int = 1, num_frames: int = FRAMES) -> Encoder:
    """A tiny HBI opened for search, on some of the simulated devices."""
    clips = ClipSettings(LENGTH, STRIDE, "windows", num_frames, num_frames / LENGTH, SIDE)
    rates = {level.name: rate for level, rate in zip(config.levels, rates, strict=True)}
    mesh = make_mesh(devices=jax.devices()[:devices])
    return Encoder("/where/it/was", HBI(config), parameters(config), rates, clips, WORDS, mesh)


def make_index(folder: pathlib.Path, encoder: Encoder, **settings) -> Index:
    """A new index, without a checkpoint on a disk."""
    manifest = Manifest(encoder.digest, encoder.path, SearchConfig(**settings))
    with writing(folder):
        manifest.write(folder)
    return Index(folder, encoder, manifest)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return tiny_encoder()


@pytest.fixture(autouse=True)
def _one_device(monkeypatch):
    monkeypatch.setattr(encoders, "local_mesh", lambda: make_mesh(devices=jax.devices()[:1]))


@pytest.fixture(scope="session")
def rendered(tmp_path_factory) -> pathlib.Path:
    """Four short videos of 3 s, and `long.mp4` of 12 s."""
    folder = tmp_path_factory.mktemp("rendered")
    few = {"num_train": 0, "num_val": 0, "num_twin_groups": 0, "image_size": 32}
    quiet = {"num_workers": 1, "show_progress": False}
    shapes.generate(folder / "short", shapes.WorldConfig(num_test=4, **few), **quiet)
    shapes.generate(folder / "long", shapes.WorldConfig(num_test=1, num_frames=96, **few), **quiet)
    videos = folder / "videos"
    videos.mkdir()
    for path in (folder / "short" / "videos").iterdir():
        shutil.copy(path, videos)
    (long,) = (folder / "long" / "videos").iterdir()
    shutil.copy(long, videos / "long.mp4")
    return videos


@pytest.fixture
def videos(rendered, tmp_path) -> pathlib.Path:
    """A copy of the rendered videos, half of them in a folder of the folder."""
    folder = tmp_path / "videos"
    (folder / "deep" / "er").mkdir(parents=True)
    for number, path in enumerate(sorted(rendered.iterdir())):
        shutil.copy2(path, folder / "deep" / "er" if number % 2 else folder)
    return folder
