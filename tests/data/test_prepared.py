"""Reading prepared videos: the frames that video files give, but for the JPEGs; folders that cannot be read."""

import dataclasses
import fractions
import itertools
import json
import pickle
import shutil

import jax
import numpy as np
import pytest
from PIL import ImageOps

from hbi_jax.data.augment import CropFlip, RandAugment
from hbi_jax.data.config import PrepareConfig
from hbi_jax.data.dataset import Dataset
from hbi_jax.data.datasets import DataError, Record, Split
from hbi_jax.data.pipeline import train_batches
from hbi_jax.data.prepare import prepare
from hbi_jax.data.prepared import LOSSLESS, MANIFEST, Manifest, Prepared, Settings, relocated
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer
from hbi_jax.models.hbi import HBI
from hbi_jax.tasks.retrieval.task import make_evaluator
from hbi_jax.tasks.weights import load_weights
from tests.data.situations import Kind, write
from tests.tiny_run import tiny_config, tiny_mesh

SIZE = 16
SETTINGS = Settings(frames_per_second=4.0, short_side=SIZE)


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    """Wide, tall and small pictures, with and without a declared number of frames, in folders; one file is empty."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "film").mkdir()
    rng = np.random.default_rng(0)
    for name, size, frames in (
        ("wide.mp4", (24, 48), 24),
        ("film/tall.mkv", (50, 20), 17),
        ("small.mp4", (12, 14), 9),
        ("one.mp4", (24, 24), 1),
    ):
        write_video(folder / name, rng.integers(0, 256, frames).tolist(), size=size)
    (folder / "empty.mp4").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def split(videos):
    """Eight clips of the six files, of which one is not there; the first has two captions, another has no frame."""
    clips = {
        "wide": ("wide.mp4", None, None),
        "part": ("wide.mp4", 1, 2.5),
        "end": ("wide.mp4", 2.25, 99),
        "late": ("wide.mp4", 50, 60),
        "tall": ("film/tall.mkv", None, None),
        "small": ("small.mp4", 0, 1),
        "one": ("one.mp4", None, None),
        "empty": ("empty.mp4", None, None),
        "missing": ("missing.mp4", None, None),
    }
    records = [Record(f"clip {name}", name, videos / file, start, end) for name, (file, start, end) in clips.items()]
    return Split("train", (*records, dataclasses.replace(records[0], text="another caption")))


@pytest.fixture(scope="module")
def folder(split, videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare([split], videos, folder, SETTINGS, max_unreadable_rate=0.5, num_processes=0, shown=False)
    return folder


@pytest.fixture(scope="module")
def lossless(split, videos, tmp_path_factory):
    folder, settings = tmp_path_factory.mktemp("lossless"), dataclasses.replace(SETTINGS, quality=LOSSLESS)
    prepare([split], videos, folder, settings, max_unreadable_rate=0.5, num_processes=0, shown=False)
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    """The prepared folder, to be damaged."""
    return shutil.copytree(folder, tmp_path / "copy")


def _source(split, prepared=None, **options):
    options = {"max_frames": 4, "frames_per_second": 4.0, "max_unreadable_rate": 0.5} | options
    return Source(split, Tokenizer(8), SIZE, prepared=prepared, **options)


def _rows(source, transforms=None):
    return source.video_rows(np.arange(source.split.num_videos, dtype=np.int32), transforms)


@pytest.mark.parametrize("max_frames", [1, 3, 4, 100])
def test_without_loss_the_frames_are_those_of_the_video_files(split, videos, lossless, max_frames):
    raw = _source(split, max_frames=max_frames)
    ready = _source(relocated(split, videos, lossless), Prepared(lossless), max_frames=max_frames)
    for got, expected in zip(_rows(ready), _rows(raw), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert set(ready.unreadable) == set(raw.unreadable) == {"late", "empty", "missing"}
    for name, reason in raw.unreadable.items():
        assert ready.unreadable[name].split(": ")[1:] == reason.split(": ")[1:]


def test_jpegs_change_little(split, videos, folder):
    raw, ready = _source(split), _source(relocated(split, videos, folder), Prepared(folder))
    (expected, expected_mask, _), (got, mask, _) = _rows(raw), _rows(ready)
    np.testing.assert_array_equal(mask, expected_mask)
    np.testing.assert_allclose(got.astype(float), expected.astype(float), atol=3)
    assert not got[~mask].any()


def test_frames_can_be_changed(split, videos, folder):
    source = _source(relocated(split, videos, folder), Prepared(folder))
    plain, mask, _ = _rows(source)
    frames, _, _ = _rows(source, [ImageOps.invert] * split.num_videos)
    np.testing.assert_array_equal(frames[mask], 255 - plain[mask])


@pytest.mark.parametrize("augmentation", [None, RandAugment(), CropFlip()])
def test_batches_are_a_function_of_seed_and_step(split, videos, folder, augmentation):
    """Interrupted, in another number of processes and threads."""
    moved = relocated(split, videos, folder)

    def take(number, **options):
        with train_batches(_source(moved, Prepared(folder)), 4, 3, augmentation=augmentation, **options) as batches:
            return list(itertools.islice(batches, number))

    whole = take(4, num_threads=0)
    assert any(batch.example_mask.any() for batch in whole)
    parts = [take(2, start_step=2, mine=mine, num_threads=2) for mine in np.split(np.arange(4), 2)]
    for step, expected in enumerate(whole[2:]):
        got = jax.tree.map(lambda *shares: np.concatenate(shares), *(part[step] for part in parts))
        for name, a, b in zip(expected._fields, got, expected, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_a_copy_for_a_worker_reads_the_same(split, videos, folder):
    source = _source(relocated(split, videos, folder), Prepared(folder))
    for got, expected in zip(_rows(pickle.loads(pickle.dumps(source))), _rows(source), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_the_folder_of_a_file_is_found(split, videos, folder):
    moved = relocated(split, videos, folder)
    assert moved.videos[4].path == folder / "film" / "tall.mkv"
    assert Prepared.holding(moved.videos[4].path) is not None
    assert Prepared.holding(split.videos[4].path) is None


def _damaged(folder, change):
    """Changes the first shard that has a record."""
    shard = next(shard for shard in Manifest.read(folder).shards if shard.num_records)
    path = folder / shard.name
    path.write_bytes(change(path.read_bytes()))
    return path


def test_a_damaged_shard_is_named_with_its_checksum(split, videos, copy):
    path = _damaged(copy, lambda data: data.replace(b"JFIF", b"JPEG"))
    source = _source(relocated(split, videos, copy), Prepared(copy))
    with pytest.raises(DataError, match=r"sha256 [0-9a-f]{64} \(Corrupted.*wanted sha256.*run the same") as caught:
        _rows(source)
    assert str(path) in str(caught.value)


def test_a_missing_or_cut_shard_is_named(copy):
    path = _damaged(copy, lambda data: data[:-1])
    with pytest.raises(DataError, match=rf"{path.name}: got \d+ bytes, wanted \d+ bytes; run the same"):
        Prepared(copy)
    path.unlink()
    with pytest.raises(DataError, match=f"{path.name}: got no such file"):
        Prepared(copy)


def test_an_unfinished_folder_is_refused(copy):
    lines = (copy / MANIFEST).read_text().splitlines(keepends=True)
    # What is being written when a pass is killed may be half a line.
    (copy / MANIFEST).write_text("".join(lines[:-1]) + lines[-1][:20])
    with pytest.raises(DataError, match=f"got {len(lines) - 2} finished shards, wanted {len(lines) - 1}; run the same"):
        Prepared(copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory, wanted a folder that `python -m hbi_jax.data prepare` has written"),
        ("", "a damaged file"),
        ("[]\n", "a damaged file"),
        ("{}\n", "a damaged file.*'format'.*delete the folder and prepare it again"),
        ('{"format": 99}\n', "got format 99, wanted format 1; prepare the videos again, into another folder"),
        ('{"format": 1, "settings": {"speed": 1}, "config": {}, "num_shards": 0}\n', "a damaged file.*speed"),
        ("\xff\n", "a damaged file"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=message) as caught:
        Prepared(tmp_path)
    assert str(tmp_path / MANIFEST) in str(caught.value)


def test_a_split_cannot_be_moved_into_any_folder(split, videos, tmp_path):
    with pytest.raises(DataError, match="No such file or directory, wanted a folder that"):
        relocated(split, videos, tmp_path / "nowhere")


def test_what_a_folder_was_not_prepared_for_is_refused(split, videos, folder):
    moved, ready = relocated(split, videos, folder), Prepared(folder)
    with pytest.raises(
        DataError, match=r"got frames_per_second=4.0, wanted 1.0; set data.frames_per_second to the folder's"
    ):
        _source(moved, ready, frames_per_second=1.0)
    with pytest.raises(DataError, match="got short_side=16, wanted at least the image_size of 17; prepare"):
        Source(moved, Tokenizer(8), SIZE + 1, 4, frames_per_second=4.0, prepared=ready)
    others = [dataclasses.replace(moved.records[n], video_id=f"other{n}", start=0.5, end=None) for n in range(2)]
    with pytest.raises(DataError, match=r"no frames of 2 of 11 videos of split 'train', such as 'other0' \(.*wide.mp4"):
        _source(Split("train", (*moved.records, *others)), ready)


@pytest.mark.parametrize("square", [True, False])
def test_pixels_that_are_not_square_are_prepared_as_they_would_be_read(tmp_path, square):
    times = [frame / 25 for frame in range(10)]
    path = tmp_path / "videos" / "oblong.mp4"
    path.parent.mkdir()
    write(path, Kind(".mp4", "libx264", "aac"), times, aspect=fractions.Fraction(16, 11))
    split, ready = Split("train", (Record("a text", "oblong", path),)), tmp_path / "prepared"
    settings = dataclasses.replace(SETTINGS, quality=LOSSLESS, square_pixels=square)
    prepare([split], path.parent, ready, settings, num_processes=0, shown=False)
    moved = relocated(split, path.parent, ready)
    got = _rows(_source(moved, Prepared(ready), square_pixels=square))
    (expected, *_), (other, *_) = (_rows(_source(split, square_pixels=value)) for value in (square, not square))
    np.testing.assert_array_equal(got[0], expected)
    assert (expected != other).any()
    with pytest.raises(DataError, match=rf"got square_pixels={square}, wanted {not square}; set data.square_pixels to"):
        _source(moved, Prepared(ready), square_pixels=not square)


def test_a_manifest_is_written_and_read_back(copy):
    manifest = Manifest.read(copy)
    manifest.write(copy)
    assert Manifest.read(copy) == manifest
    assert json.loads((copy / MANIFEST).read_text().splitlines()[0])["num_shards"] == len(manifest.shards) == 6


def test_a_trained_model_ranks_alike(finished, world, tmp_path):
    """The galleries of the tiny run: without loss all features and ranks are the same, JPEGs change them little."""
    config = tiny_config(world)
    params, mesh = load_weights(str(finished)).params, tiny_mesh()
    evaluator = make_evaluator(HBI(config.model), config, mesh)

    def evaluated(dataset):
        for name in dataset.galleries:
            gallery = evaluator.encoder.encode(params, dataset.source(dataset.split(name)))
            yield gallery.video.pooled, evaluator.similarity(params, gallery)

    dataset = Dataset(config.data, config.model.clip.image_size, str(tmp_path))
    raw, galleries = list(evaluated(dataset)), [dataset.split(name) for name in dataset.galleries]
    for quality in (LOSSLESS, 95):
        data = dataclasses.replace(
            config.data, prepared=f"{{workdir}}/ready-{quality}", prepare=PrepareConfig(quality=quality)
        )
        ready = Dataset(data, config.model.clip.image_size, str(tmp_path))
        prepare(galleries, data.videos, ready.folder("prepared"), ready.prepare_settings, num_processes=0, shown=False)
        for (features, similarity), (expected_features, expected) in zip(evaluated(ready), raw, strict=True):
            if quality == LOSSLESS:
                np.testing.assert_array_equal(features, expected_features)
                np.testing.assert_array_equal(similarity, expected)
            else:
                cosine = np.sum(features * expected_features, -1) / np.linalg.norm(features, axis=-1)
                cosine /= np.linalg.norm(expected_features, axis=-1)
                assert cosine.min() > 0.999
                assert np.abs(similarity - expected).max() < 0.2 * expected.std()
                ranks, expected_ranks = (x.argsort(axis=1).argsort(axis=1) for x in (similarity, expected))
                assert np.abs(ranks - expected_ranks).mean() < 0.5
