"""Mutilated annotation files: whatever is in them, a loader reads it or says what is wrong."""

import csv
import io
import json
import os
import pickle
import random
import shutil
import time

import pytest

from hbi_jax.data import shapes
from hbi_jax.data.datasets import LOADERS, DataError, load_split
from hbi_jax.data.shapes.exports import LAYOUTS

# A tenth of this for each of the ten data sets, and a few more.
MUTILATIONS = 240
VALIDATION = {
    "activitynet": {"num_val_videos": 2},
    "folder": {"val_list": "val"},
    "lsmdc": {"val_list": "LSMDC16_annos_val.csv"},
    "msrvtt": {"val_list": "MSRVTT_val.csv"},
    "msrvtt_caption": {"val_list": "validate"},
    "msvd": {"val_list": "val_list.txt"},
    "didemo": {"val_list": "val_list.txt"},
}
# What the files of the world's own layout are read by.
OWN = {
    "msrvtt": ("MSRVTT_train.9k.csv", "MSRVTT_val.csv", "MSRVTT_JSFUSION_test.csv", "MSRVTT_data.json"),
    "msrvtt_caption": ("MSRVTT_data.json",),
    "msrvtt_qa": ("train.jsonl", "val.jsonl", "test.jsonl"),
}


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


# What a value is replaced by.
JUNK = (
    None, True, -1, 0, 10**4000, 1e308, float("nan"), float("inf"), 0.5, "", " ", "\0", "\ud800", "../../etc/passwd",
    "/etc/passwd", "..", "a/../../b", "a" * 100_000, ".mp4" * 10_000, "\u2028", [], {}, [[]], {"a": 1}, nested(200),
    ["a"] * 1000, "1e999", "video0",
)  # fmt: skip


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """Every data set as a tiny world, in a folder of its name."""
    folder = tmp_path_factory.mktemp("fuzz")
    config = shapes.WorldConfig(num_train=4, num_val=2, num_test=3, num_twin_groups=1, num_frames=16, image_size=32)
    shapes.generate(folder / "msrvtt", config, num_workers=1, show_progress=False)
    for layout in LAYOUTS:
        shapes.export(folder / "msrvtt", folder / layout, layout)
    for layout in OWN.keys() - {"msrvtt"}:
        shutil.copytree(folder / "msrvtt", folder / layout)
    return folder


def replaced(value, junk, rng):
    """A value of nested lists and dicts with one node of it, or one key, replaced."""
    if not isinstance(value, list | dict) or not value or rng.random() < 0.1:
        return junk
    if isinstance(value, list):
        place = rng.randrange(len(value))
        return [*value[:place], replaced(value[place], junk, rng), *value[place + 1 :]]
    key = rng.choice(list(value))
    rest = {name: item for name, item in value.items() if name != key}
    return (
        {**rest, str(junk)[:50]: value[key]} if rng.random() < 0.1 else {**rest, key: replaced(value[key], junk, rng)}
    )


def with_junk(name, content, rng):
    """A file of its own kind, with something in it that does not belong there."""
    junk = rng.choice(JUNK)
    if name.endswith(".pkl"):
        return pickle.dumps(replaced(pickle.loads(content), junk, rng), rng.randrange(6))
    text = content.decode()
    if name.endswith(".json"):
        return json.dumps(replaced(json.loads(text), junk, rng)).encode()
    lines = text.splitlines()
    place = rng.randrange(len(lines))
    if name.endswith(".jsonl"):
        lines[place] = json.dumps(replaced(json.loads(lines[place]), junk, rng))
    else:
        tabs = "\t" in lines[place]
        cells = lines[place].split("\t") if tabs else next(csv.reader([lines[place]]))
        cells[rng.randrange(len(cells))] = str(junk)[:200_000]
        row = io.StringIO()
        csv.writer(row, lineterminator="").writerow(cells)
        lines[place] = "\t".join(cells) if tabs else row.getvalue()
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def flipped(name, content, rng):
    data = bytearray(content)
    for _ in range(rng.choice((1, 3, 30))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def truncated(name, content, rng):
    return content[: rng.randrange(len(content))]


def inserted(name, content, rng):
    place, what = (
        rng.randrange(len(content) + 1),
        (b"\xff\xfe", b"\0" * 50, b'"', b"[" * 100_000, b"\xef\xbb\xbf", b"\r"),
    )
    return content[:place] + rng.choice(what) + content[place:]


def doubled(name, content, rng):
    """Some part twice: ids, keys, lines, or everything."""
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    lines = content.splitlines(keepends=True)
    line = rng.randrange(len(lines))
    return rng.choice((content * 2, content[:last] + content[first:], b"".join([*lines[: line + 1], *lines[line:]])))


def escaping(name, content, rng):
    """Every video has an id that leads elsewhere."""
    return content.replace(b"video", rng.choice((b"../video", b"/etc/video", b"..\\\\video", b"x/../../video")))


def outcome(dataset, split, options):
    """What a loader says is wrong, or the records; any other error is a fault."""
    try:
        return "", load_split(dataset, split, **options).records
    except DataError as error:
        return str(error), ()


@pytest.mark.parametrize("dataset", sorted(LOADERS))
def test_mutilated_annotations_are_read_or_refused(layouts, dataset, tmp_path):
    annotations, videos = tmp_path / "annotations", layouts / dataset / "videos"
    shutil.copytree(layouts / dataset, annotations, ignore=shutil.ignore_patterns("videos"))
    files = OWN.get(dataset) or sorted(path.name for path in annotations.iterdir())
    options = {"annotations": annotations, "videos": videos, **VALIDATION.get(dataset, {})}
    whole = {split: load_split(dataset, split, **options) for split in ("train", "val", "test")}
    rng, refused = random.Random(dataset), 0
    ways = (with_junk, with_junk, with_junk, flipped, truncated, inserted, doubled, escaping)
    for number in range(MUTILATIONS // len(LOADERS)):
        path, way = annotations / rng.choice(files), ways[number % len(ways)]
        content = path.read_bytes()
        path.write_bytes(way(path.name, content, rng))
        begun = time.monotonic()
        for split in whole:
            message, records = outcome(dataset, split, options)
            refused += bool(message)
            # Messages show what is wrong, not all of it.
            assert len(message) < 5000, way
            inside = f"{videos}{os.sep}"
            assert all(os.path.normpath(record.path).startswith(inside) for record in records), way
        assert time.monotonic() - begun < 5, way
        path.write_bytes(content)
    assert refused >= 5
    assert {split: load_split(dataset, split, **options) for split in whole} == whole
