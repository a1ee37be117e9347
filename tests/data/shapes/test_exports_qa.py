"""A world in the layouts of other data sets of questions, read by their loaders down to the pictures."""

import numpy as np
import pytest

from hbi_jax.data.datasets import load_split
from hbi_jax.data.shapes.exports_qa import export_activitynet_qa, export_msvd_qa
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer


def _read(dataset, folder, split, **galleries):
    records = load_split(dataset, split, annotations=folder, videos=folder / "videos", galleries=galleries)
    source = Source(records, Tokenizer(24), image_size=32, max_frames=6, frames_per_second=2.0)
    frames, mask, readable = source.video_rows(np.arange(records.num_videos))
    assert readable.all()
    return records, source, frames, mask


@pytest.mark.parametrize(
    ("dataset", "export", "suffix", "types"),
    [
        ("msvd_qa", export_msvd_qa, "_qa.json", {"what", "which", "how", "where", "other"}),
        (
            "activitynet_qa",
            export_activitynet_qa,
            "_q.json",
            {"motion", "spatial relationship", "temporal relationship", "object", "number"},
        ),
    ],
)
def test_every_layout_says_and_shows_the_same(tiny_world, tmp_path, dataset, export, suffix, types):
    export(tiny_world, tmp_path)
    found = set()
    for split in ("train", "val", "test", "twins"):
        ours, source, frames, mask = _read("msrvtt_qa", tiny_world, split, test="test.jsonl", twins="twins.jsonl")
        galleries = {"test": f"test{suffix}", "twins": f"twins{suffix}"}
        theirs, other, other_frames, other_mask = _read(dataset, tmp_path, split, **galleries)
        assert [(one.text, one.answer) for one in theirs.records] == [(one.text, one.answer) for one in ours.records]
        np.testing.assert_array_equal(theirs.video_index, ours.video_index)
        index = np.arange(len(ours.records))
        np.testing.assert_array_equal(other.text_rows(index)[0], source.text_rows(index)[0])
        np.testing.assert_array_equal(other_mask, mask)
        # Compressing once more changes little.
        assert np.abs(other_frames.astype(int) - frames).mean() < 2
        found |= {record.answer_type for record in theirs.records}
    assert found <= types
    assert len(found) >= 4
