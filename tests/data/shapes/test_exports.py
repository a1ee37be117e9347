"""A world in the layout of each data set of captions, read by that data set's loader and decoded."""

import collections
import json

import numpy as np
import pytest

from hbi_jax.data import shapes
from hbi_jax.data.datasets import LOADERS, load_split
from hbi_jax.data.shapes.__main__ import main
from hbi_jax.data.shapes.exports import LAYOUTS
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer

# What the configurations say of validation.
OPTIONS = {
    "activitynet": {"num_val_videos": 2},
    "didemo": {"val_list": "val_list.txt"},
    "folder": {"val_list": "val"},
    "lsmdc": {"val_list": "LSMDC16_annos_val.csv"},
    "msvd": {"val_list": "val_list.txt"},
}
# Splits with every caption a record; of the others, those with all captions of a video in one.
ALL = {("msvd", "train"), ("msvd", "val"), ("msvd", "test"), ("folder", "train")}
JOINED = ("activitynet", "didemo")


@pytest.fixture(scope="module")
def exported(tiny_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    for layout in OPTIONS:
        shapes.export(tiny_world, folder / layout, layout)
    return folder


@pytest.fixture(scope="module")
def truth(tiny_world):
    """The captions of each video of the world, by split and in order."""
    data = json.loads((tiny_world / "MSRVTT_data.json").read_text())
    captions = collections.defaultdict(list)
    for sentence in data["sentences"]:
        captions[sentence["video_id"]].append(sentence["caption"])
    found = {"train": {}, "val": {}, "test": {}, "twins": {}}
    for video in data["videos"]:
        found[video["split"].replace("validate", "val")][video["video_id"]] = captions[video["video_id"]]
    return found


def load(exported, layout, split, **options):
    folder = exported / layout
    return load_split(layout, split, annotations=folder, videos=folder / "videos", **OPTIONS[layout], **options)


def rows(split, size=32):
    source = Source(split, Tokenizer(77), size, 12, frames_per_second=4.0)
    frames, mask, readable = source.video_rows(np.arange(split.num_videos, dtype=np.int32))
    assert source.unreadable == {}
    assert readable.all()
    return frames, mask


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("layout", OPTIONS)
def test_a_loader_reads_what_the_world_says(exported, tiny_world, truth, layout, split):
    """Texts in their order, videos in theirs, and the frames of the world's own files."""
    got, wanted = load(exported, layout, split), truth[split]
    texts = {
        video_id: captions if (layout, split) in ALL else [" ".join(captions)] if layout in JOINED else [captions[0]]
        for video_id, captions in wanted.items()
    }
    assert [record.text for record in got.records] == [text for captions in texts.values() for text in captions]
    assert got.num_videos == len(wanted)
    assert got.video_index.tolist() == np.repeat(np.arange(len(texts)), [len(c) for c in texts.values()]).tolist()
    original = load_split(
        "msrvtt_caption",
        split,
        annotations=tiny_world,
        videos=tiny_world / "videos",
        val_list="validate",
    )
    frames, mask = rows(got)
    theirs, their_mask = rows(original)
    np.testing.assert_array_equal(mask, their_mask)
    difference = np.abs(frames.astype(float) - theirs)
    # Compressed anew or, as MP4, copied; another video would differ by more than 10.
    assert difference.mean() < (0 if layout in ("activitynet", "folder") else 2) + 1e-9


def test_near_twins_and_clips_come_with_the_table_of_your_own_videos(exported, truth):
    twins = load(exported, "folder", "twins", galleries={"twins": "twins"})
    assert [record.group for record in twins.records] == [f"group{number}" for number in (0, 0, 0, 0, 1, 1, 1, 1)]
    assert {(record.start, record.end) for record in twins.records} == {(0.0, 3.0)}
    assert [record.path.stem for record in twins.records] == list(truth["twins"])
    assert {record.path.parent.name for record in twins.records} == {"twins"}


def test_other_galleries_are_lists_too(exported, truth):
    lists = {"activitynet": "twins_ids.json", "didemo": "twins_list.txt", "lsmdc": "LSMDC16_twins.csv"}
    for layout, name in (lists | {"msvd": "twins_list.txt"}).items():
        assert load(exported, layout, "twins", galleries={"twins": name}).num_videos == len(truth["twins"])


def test_files_are_what_old_collections_have(exported):
    endings = {path.suffix for path in (exported / "didemo" / "videos").iterdir()}
    assert endings == {".avi", ".mov", ".mp4", ".m4v", ".3gp"}
    movies = sorted(path.name for path in (exported / "lsmdc" / "videos").iterdir())
    assert movies[0] == "0000_Moving_Shapes"
    assert all(path.is_dir() for path in (exported / "lsmdc" / "videos").iterdir())
    first = (exported / "lsmdc" / "LSMDC16_annos_training.csv").read_text().splitlines()[0].split("\t")
    assert first[:5] == ["0000_Moving_Shapes_00.00.00.000-00.00.03.000", *["00.00.00.000", "00.00.03.000"] * 2]


def test_every_layout_but_the_world_s_own_has_an_export():
    assert set(LAYOUTS) == set(LOADERS) - {"msrvtt", "msrvtt_caption", "msrvtt_qa"}


def test_the_command_exports_a_world(tiny_world, tmp_path, capsys):
    assert main(["export", str(tiny_world), str(tmp_path / "out"), "--layout=activitynet"]) == 0
    assert "as activitynet" in capsys.readouterr().out
    assert (tmp_path / "out" / "val_1.json").is_file()
    assert main(["export", str(tmp_path), str(tmp_path / "out"), "--layout=msvd"]) == 1
    assert "holds no finished world" in capsys.readouterr().err
    with pytest.raises(shapes.ShapesError, match="layout='msrvtt' is unknown; choose one of activitynet, "):
        shapes.export(tiny_world, tmp_path, "msrvtt")
    (tmp_path / "file").touch()
    with pytest.raises(shapes.ShapesError, match="cannot write"):
        shapes.export(tiny_world, tmp_path / "file", "folder")
