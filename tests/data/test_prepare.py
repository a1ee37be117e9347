"""Preparing videos: what the folder holds, and passes that are broken off, repeated or refused."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import io
import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from hbi_jax.data import prepare as prepare_module
from hbi_jax.data.datasets import DataError, Record, Split
from hbi_jax.data.prepare import prepare
from hbi_jax.data.prepared import LOSSLESS, MANIFEST, Manifest, Settings

ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = Settings(frames_per_second=2.0, short_side=16, quality=90)
NUM_VIDEOS = 20


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    """Twenty videos of two to four seconds at eight frames a second; number 7 is empty."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(NUM_VIDEOS):
        greys = [10 * number + step for step in range(16 + 8 * (number % 3))]
        path = write_video(folder / f"v{number}.mp4", greys, size=(24, 32))
        if number == 7:
            path.write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def splits(videos):
    """Two captions of each of the first fifteen; two clips of 0 and questions about the last five."""
    train = [Record(f"{n} of {v}", f"v{v}", videos / f"v{v}.mp4") for v in range(15) for n in range(2)]
    test = [Record("what?", f"v{v}", videos / f"v{v}.mp4", answer="grey") for v in range(15, 20)]
    clips = [Record(f"clip {n}", f"v0 clip {n}", videos / "v0.mp4", start=n, end=1) for n in range(2)]
    return [Split("train", tuple(train)), Split("test", (*clips, *test))]


@pytest.fixture
def make(splits, videos, tmp_path):
    def make_folder(folder=tmp_path / "prepared", splits=splits, settings=SETTINGS, **options):
        options = {"max_unreadable_rate": 0.1, "num_processes": 0, "shown": False} | options
        return prepare(splits, videos, folder, settings, **options)

    return make_folder


@pytest.fixture
def decoded(monkeypatch):
    """How often each file is decoded."""
    counts = collections.Counter()

    def map_windows(keep, path, *args):
        counts[path.stem] += 1
        return original(keep, path, *args)

    original = prepare_module.map_windows
    monkeypatch.setattr(prepare_module, "map_windows", map_windows)
    return counts


@pytest.fixture(scope="module")
def reference(splits, videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    prepare(splits, videos, folder, SETTINGS, 0.1, num_processes=0, shown=False, config={"name": "HBI"})
    return folder


def _checksums(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _grey(picture):
    return np.asarray(picture).mean()


def test_tfds_reads_the_folder(reference):
    """Twenty-one clips; 19 files can be read."""
    builder = tfds.builder_from_directory(str(reference))
    assert builder.info.splits["videos"].num_examples == 21
    examples = list(builder.as_data_source(split="videos"))
    clips = {
        (example["file"].decode(), float(example["start"]), float(example["end"])): example for example in examples
    }
    assert len(clips) == 21
    whole = clips["v2.mp4", 0.0, math.inf]
    # Every fourth of 32 frames, the short side at 16.
    assert [frame.shape for frame in whole["frames"]] == [(16, 21, 3)] * 8
    np.testing.assert_allclose([_grey(frame) for frame in whole["frames"]], range(20, 52, 4), atol=2)
    assert [text.decode() for text in whole["texts"]["text"]] == ["0 of 2", "1 of 2"]
    assert {name.decode() for name in whole["texts"]["video_id"]} == {"v2"}
    assert {name.decode() for name in whole["texts"]["split"]} == {"train"}
    question = clips["v16.mp4", 0.0, math.inf]["texts"]
    assert (question["split"], question["text"], question["answer"]) == ([b"test"], [b"what?"], [b"grey"])
    np.testing.assert_allclose([_grey(frame) for frame in clips["v0.mp4", 0.0, 1.0]["frames"]], [0, 4, 8], atol=2)
    np.testing.assert_allclose([_grey(frame) for frame in clips["v0.mp4", 1.0, 1.0]["frames"]], [8], atol=2)


def test_the_manifest_says_what_it_was_made_from(reference, videos):
    manifest = Manifest.read(reference)
    assert manifest.settings == SETTINGS
    assert manifest.config == {"name": "HBI"}
    assert len(manifest.shards) == manifest.num_shards == 16
    for shard in manifest.shards:
        data = (reference / shard.name).read_bytes()
        assert (shard.size, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert {"hbi_jax", "av", "pillow"} <= set(shard.versions)
    clips = [clip for shard in manifest.shards for clip in shard.clips]
    assert all(clip.size == (videos / clip.file).stat().st_size for clip in clips)
    (bad,) = [clip for clip in clips if clip.unreadable is not None]
    assert (bad.file, bad.frames, bad.size) == ("v7.mp4", 0, 0)
    assert "Invalid data" in bad.unreadable


def test_each_file_is_decoded_once_and_counted(make, decoded):
    summary = make()
    assert decoded == {f"v{number}": 1 for number in range(NUM_VIDEOS)}
    assert (summary.clips, summary.shards, summary.kept) == (21, 16, 0)
    assert summary.frames == sum(4 + 2 * (n % 3) for n in range(NUM_VIDEOS) if n != 7) + 3 + 1
    assert list(summary.unreadable["train"]) == ["v7"]
    assert summary.unreadable["test"] == {}


@pytest.mark.parametrize("quality", [30, 95])
def test_the_quality_is_that_of_the_settings(quality):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    stored = prepare_module._stored(Settings(short_side=20, quality=quality), Image.fromarray(noise))
    expected = Image.fromarray(noise).resize((30, 20), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    expected.save(file, "JPEG", quality=quality, subsampling=0)
    assert stored == file.getvalue()
    stored = prepare_module._stored(Settings(short_side=20, quality=LOSSLESS), Image.fromarray(noise))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored))), np.asarray(expected))


def test_small_pictures_keep_their_size():
    picture = Image.new("RGB", (30, 20), "red")
    assert Image.open(io.BytesIO(prepare_module._stored(Settings(short_side=224), picture))).size == (30, 20)


@pytest.mark.parametrize(("name", "value"), [("frames_per_second", 0.0), ("short_side", 0), ("quality", 101)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"prepare.{name}={value}: wanted"):
        Settings(**{name: value})


def test_a_pass_that_is_broken_off_goes_on(make, tmp_path, decoded, reference, monkeypatch):
    """Stopped at the twelfth video, all of a shard or nothing is there; the second pass makes the rest, the same."""
    counted = prepare_module.map_windows

    def stopped(keep, path, *args):
        if sum(decoded.values()) == 12:
            raise KeyboardInterrupt
        return counted(keep, path, *args)

    monkeypatch.setattr(prepare_module, "map_windows", stopped)
    with pytest.raises(KeyboardInterrupt):
        make()
    folder = tmp_path / "prepared"
    finished = Manifest.read(folder).shards
    assert {path.name for path in folder.iterdir()} == {MANIFEST, *(shard.name for shard in finished)}
    assert 5 < len(finished) < 16
    monkeypatch.setattr(prepare_module, "map_windows", counted)
    # What is written when a pass is killed has another name, and half a line in the manifest.
    (folder / ".hbi_videos-videos.array_record-00011-of-00016-1").write_bytes(b"half")
    with open(folder / MANIFEST, "a") as file:
        file.write('{"name": "hbi_')
    already = sum(len({clip.file for clip in shard.clips}) for shard in finished)
    decoded.clear()
    assert make(config={"name": "HBI"}).kept == len(finished)
    assert sum(decoded.values()) == NUM_VIDEOS - already
    assert _checksums(folder) == _checksums(reference)


def test_a_second_pass_decodes_nothing(make, tmp_path, decoded, reference):
    make(config={"name": "HBI"})
    decoded.clear()
    summary = make(config={"name": "HBI"})
    assert (summary.kept, summary.clips) == (16, 21)
    assert list(summary.unreadable["train"]) == ["v7"]
    assert not decoded
    assert _checksums(tmp_path / "prepared") == _checksums(reference)


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "unlist"])
def test_what_is_damaged_is_made_anew_and_nothing_else(make, tmp_path, decoded, reference, damage):
    make(config={"name": "HBI"})
    folder = tmp_path / "prepared"
    shard = Manifest.read(folder).shards[3]
    path = folder / shard.name
    data = path.read_bytes()
    if damage == "flip":
        path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    elif damage == "cut":
        path.write_bytes(data[:-1])
    elif damage == "delete":
        path.unlink()
    else:
        lines = (folder / MANIFEST).read_text().splitlines(keepends=True)
        (folder / MANIFEST).write_text("".join(line for line in lines if shard.name not in line))
    decoded.clear()
    assert make(config={"name": "HBI"}).kept == 15
    assert set(decoded) == {clip.file.removesuffix(".mp4") for clip in shard.clips}
    files = _checksums(folder)
    del files[MANIFEST]
    assert files.items() < _checksums(reference).items()


def test_other_videos_and_captions_make_their_shards_anew(make, tmp_path, splits, decoded):
    make()
    records = list(splits[0].records)
    records[2] = dataclasses.replace(records[2], text="corrected")  # a caption of v1
    decoded.clear()
    changed = [Split("train", tuple(records)), splits[1]]
    assert make(splits=changed).kept == 15
    assert 0 < len(decoded) < 3
    assert "v1" in decoded
    # With fewer videos than shards at least, each has one, and the names say how many there are.
    fewer = [Split("train", splits[0].records[:12])]
    summary = make(splits=fewer)
    assert (summary.shards, summary.kept, summary.clips) == (6, 0, 6)
    assert len(list((tmp_path / "prepared").glob("*.array_record-*"))) == 6


def test_too_many_unreadable_videos_stop_the_pass_by_split(make, splits, tmp_path, decoded):
    """One of 20 files is allowed, but not one of the 15 of the split."""
    with pytest.raises(DataError, match=r"split 'train': got 1 of 15 unreadable, wanted at most 5\.00%.*\n.*v7: "):
        make(max_unreadable_rate=0.05)
    finished = Manifest.read(tmp_path / "prepared").shards
    assert finished
    decoded.clear()
    # What is known of finished shards counts as well.
    assert make(max_unreadable_rate=0.07).kept == len(finished)
    with pytest.raises(DataError, match="split 'train': got 1 of 15 unreadable"):
        make(max_unreadable_rate=0.0)


def test_a_folder_of_something_else_is_refused(make, tmp_path):
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match=r"got files but no manifest.jsonl, wanted an empty folder or a folder of prep"):
        make()
    assert (tmp_path / "prepared" / "thesis.txt").read_text() == "x"


def test_a_folder_of_other_settings_is_refused(make):
    make()
    with pytest.raises(DataError, match="quality: got 91, wanted 90, with which the folder was begun; use that value"):
        make(settings=dataclasses.replace(SETTINGS, quality=91))


def test_a_folder_that_cannot_be_written_is_named(make, tmp_path):
    (tmp_path / "prepared").write_text("a file")
    with pytest.raises(OSError, match="prepared"):
        make()


def test_the_command_prepares_in_processes_and_without_tensorflow(splits, videos, reference, tmp_path):
    """Training and test split of MSR-VTT's layout; tensorflow can be imported, and leaves a trace where it is."""
    annotations = tmp_path / "annotations"
    (annotations / "tensorflow").mkdir(parents=True)
    (annotations / "tensorflow" / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    captions = [
        {"video_id": record.video_id, "caption": record.text, "sen_id": number}
        for number, record in enumerate(splits[0].records)
    ]
    (annotations / "MSRVTT_data.json").write_text(json.dumps({"sentences": captions}))
    (annotations / "MSRVTT_train.9k.csv").write_text("video_id\n" + "".join(f"v{n}\n" for n in range(15)))
    rows = "".join(f"v{n},a test\n" for n in range(15, 20))
    (annotations / "MSRVTT_JSFUSION_test.csv").write_text(f"video_id,sentence\n{rows}")
    fields = {
        "annotations": annotations,
        "videos": videos,
        "prepare.short_side": 16,
        "prepare.quality": 90,
        "frames_per_second": 2.0,
        "num_val_videos": 0,
        "max_unreadable_rate": 0.1,
    }
    overrides = [f"--config.data.{name}={value}" for name, value in fields.items()]
    command = ["hbi_jax.data", "prepare", f"--config={ROOT / 'configs' / 'msrvtt.py'}", *overrides]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--config.model.clip.image_size=32", f"--out={tmp_path / 'prepared'}"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{annotations}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "19 clips, 112 frames" in done.stdout
    assert "unreadable in split train: " in done.stdout
    assert "prepare videos 20/20 100.0%" in done.stderr
    assert not (tmp_path / "imported").exists()
    # Processes make the frames that one makes.
    one, other = (
        {
            (clip["file"], float(clip["start"]), float(clip["end"])): clip["frames"]
            for clip in tfds.builder_from_directory(str(folder)).as_data_source(split="videos")
        }
        for folder in (reference, tmp_path / "prepared")
    )
    assert len(other) == 19
    for clip, frames in other.items():
        np.testing.assert_array_equal(frames, one[clip])


def test_a_process_that_breaks_down_is_reported(splits, videos):
    waiting = prepare_module._videos(splits, videos)[:3]
    futures = [concurrent.futures.Future() for _ in waiting]
    futures[0].set_result([])
    for future in futures[1:]:
        future.set_exception(concurrent.futures.BrokenExecutor())
    records = prepare_module._in_order(zip(waiting, futures, strict=True), 3)
    assert next(records) == []
    with pytest.raises(DataError, match=r"a decoding process that died at one of v1.mp4, v2.mp4, wanted frames"):
        next(records)


def test_no_more_videos_are_begun_than_asked_for():
    begun = []

    def futures():
        for number in range(9):
            begun.append(number)
            future = concurrent.futures.Future()
            future.set_result([number])
            yield None, future

    records = prepare_module._in_order(futures(), 3)
    assert [next(records), next(records)] == [[0], [1]]
    assert begun == [0, 1, 2, 3]
    assert list(records) == [[number] for number in range(2, 9)]


def test_workers_share_the_shards_and_the_last_one_completes_the_folder(make, tmp_path, decoded, reference):
    first = make(worker=1, workers=3)
    assert (first.missing, first.kept) == (11, 0)
    assert sum(decoded.values()) < NUM_VIDEOS
    # Broken off, a worker goes on; whatever is finished is kept.
    assert make(worker=1, workers=3).kept == 5
    assert make(worker=0, workers=3).missing == 5
    last = make(worker=2, workers=3)
    assert (last.missing, last.shards) == (0, 16)
    assert set(decoded.values()) == {1}
    assert last.unreadable["train"].keys() == {"v7"}
    found, wanted = (_checksums(folder) for folder in (tmp_path / "prepared", reference))
    assert {name for name in wanted if found[name] != wanted[name]} <= {MANIFEST}
    assert found.keys() == wanted.keys()
    assert Manifest.read(tmp_path / "prepared").shards == Manifest.read(reference).shards
    assert make().kept == 16
    assert make(worker=0, workers=2).missing == 0
