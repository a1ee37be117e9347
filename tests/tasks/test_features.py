"""Frame features in files: what runs share, when they do not, and files that are damaged."""

import os

import numpy as np
import pytest

from hbi_jax.data import shapes
from hbi_jax.data.datasets import load_split
from hbi_jax.data.source import FrameFeatures, Source
from hbi_jax.data.text import Tokenizer
from hbi_jax.tasks.features import FeatureFile

TOWER = {"weights": "1"}


@pytest.fixture
def split(tmp_path):
    world = shapes.WorldConfig(num_train=0, num_val=0, num_test=4, num_twin_groups=0, num_frames=16)
    shapes.generate(tmp_path / "world", world, num_workers=1, show_progress=False)
    shapes.export(tmp_path / "world", tmp_path / "msvd", "msvd")
    return load_split("msvd", "test", annotations=tmp_path / "msvd", videos=tmp_path / "msvd" / "videos")


def source_of(split, **settings):
    return Source(split, Tokenizer(16), 32, 4, max_unreadable_rate=0.5, **settings)


@pytest.fixture
def written(split, tmp_path):
    source = source_of(split)
    rng = np.random.default_rng(0)
    source.use_features(FrameFeatures(rng.normal(size=(4, 4, 8)).astype(np.float32), rng.random((4, 4)) < 0.8))
    file = FeatureFile(tmp_path / "new" / "features", source, TOWER)
    assert not file.read(source_of(split))
    file.write(source)
    return source, file


def test_another_run_reads_what_was_written(split, written, tmp_path):
    source, file = written
    other = source_of(split)
    assert FeatureFile(file.path.parent, other, dict(TOWER)).read(other)
    for got, wanted in zip(other.features, source.features, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_features_without_some_videos_are_not_kept(split, written):
    source, file = written
    file.path.unlink()
    source.unreadable["video1"] = "it took too long"
    file.write(source)
    assert not file.path.exists()


@pytest.mark.parametrize("change", ["tower", "settings", "time", "size", "gone", "videos"])
def test_what_changes_the_features_changes_the_file(split, written, change):
    _, file = written
    tower, settings, path = dict(TOWER), {}, split.videos[2].path
    if change == "tower":
        tower["weights"] = "2"
    elif change == "settings":
        settings["frames_per_second"] = 2.0
    elif change == "time":
        os.utime(path, (1, 1))
    elif change == "size":
        found = path.stat()
        path.write_bytes(path.read_bytes()[:-1])
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    elif change == "gone":
        path.unlink()
    else:
        split = type(split)(split.name, split.records[:-5])
    assert FeatureFile(file.path.parent, source_of(split, **settings), tower).path != file.path


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_file_is_made_again(split, written, damage, caplog):
    source, file = written
    whole = file.path.read_bytes()
    file.path.write_bytes({"cut": whole[:-40], "empty": b"", "other": b"no archive"}[damage])
    other = source_of(split)
    assert not file.read(other)
    assert "cannot be read" in caplog.text
    assert other.features is None
    file.write(source)
    assert file.path.read_bytes() == whole
    assert file.read(other)


def test_a_folder_that_cannot_be_written_is_a_warning(split, written, tmp_path, caplog):
    source, _ = written
    (tmp_path / "file").write_text("")
    FeatureFile(tmp_path / "file", source, TOWER).write(source)
    assert "cannot be written" in caplog.text
