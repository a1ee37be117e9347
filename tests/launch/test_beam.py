"""The Beam runner: on its own machine, the index is the one that a single process makes."""

import importlib.util
import runpy

import pytest

from hbi_jax.search import index as indexes
from hbi_jax.search import ingest
from tests.search.conftest import make_index, rendered, tiny_encoder, videos

__all__ = ["rendered", "videos"]

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("apache_beam"), reason="launch/beam/requirements.txt is not installed"
)
TEXT = "a red square slides left"


def test_the_direct_runner_makes_the_same_index(videos, tmp_path, monkeypatch):
    run = runpy.run_path("launch/beam/run.py")
    monkeypatch.setattr(ingest, "_FILES_PER_SHARD", 1)
    (videos / "broken.mp4").write_bytes(b"no video")
    encoder = tiny_encoder()
    with make_index(tmp_path / "alone", encoder) as alone:
        alone.add(videos)
        wanted = [moment[:3] for moment in alone.search(TEXT)]
    make_index(tmp_path / "shared", encoder).close()
    monkeypatch.setattr(indexes, "open_encoder", lambda checkpoint, settings: encoder)
    arguments = [f"--index={tmp_path / 'shared'}", "--workers=3", str(videos)]
    assert run["main"]([*arguments, "--runner=DirectRunner", "--direct_running_mode=in_memory"]) == 0
    with indexes.open_index(tmp_path / "shared") as index:
        assert [moment[:3] for moment in index.search(TEXT)] == wanted
        assert index.num_clips == 9
