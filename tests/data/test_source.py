import dataclasses
import pickle
import threading

import numpy as np
import pytest
from PIL import Image, ImageOps

from hbi_jax.data import source as source_module
from hbi_jax.data.datasets import DataError, Record, Split
from hbi_jax.data.source import FILLING, Source
from hbi_jax.data.text import Tokenizer

SIZE = 16


@pytest.fixture(scope="module")
def split(tmp_path_factory, write_video):
    """Videos a (5 frames), missing, b (3 frames), cut: two of the four cannot be read."""
    folder = tmp_path_factory.mktemp("videos")
    for name, greys in (("a", [10, 20, 30, 40, 50]), ("b", [100, 110, 120])):
        write_video(folder / f"{name}.mp4", greys, fps=1)
    whole = write_video(folder / "cut.mp4", range(0, 200, 10), size=(64, 64), fps=1, faststart=True)
    whole.write_bytes(whole.read_bytes()[:-400])
    names = ("a", "missing", "b", "cut", "a")
    return Split("tiny", tuple(Record(f"clip {n}", n, folder / f"{n}.mp4") for n in names))


@pytest.fixture
def make(split):
    def make_source(**options):
        return Source(split, Tokenizer(8), SIZE, max_frames=4, **({"max_unreadable_rate": 1.0} | options))

    return make_source


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are read, in order."""
    names = []

    def map_windows(keep, path, *args):
        names.append(path.stem)
        return original(keep, path, *args)

    original = source_module.map_windows
    monkeypatch.setattr(source_module, "map_windows", map_windows)
    return names


def test_text_rows_are_the_captions(make):
    token_ids, mask = make().text_rows(np.asarray([4, FILLING, 1], np.int32))
    expected_ids, expected_mask = Tokenizer(8).encode(["clip a", "clip missing"])
    np.testing.assert_array_equal(token_ids[[0, 2]], expected_ids)
    np.testing.assert_array_equal(mask[[0, 2]], expected_mask)
    assert not token_ids[1].any()
    assert not mask[1].any()


def test_it_knows_which_texts_are_cut(split):
    def truncated(num_words):
        return Source(split, Tokenizer(num_words), SIZE, max_frames=4).truncated.tolist()

    # Every text is "clip" and a name of one token.
    assert truncated(3) == [0, 1, 2, 3, 4]
    assert truncated(4) == []
    long = dataclasses.replace(split, records=(*split.records[:2], dataclasses.replace(split.records[2], text="a b c")))
    assert Source(long, Tokenizer(4), SIZE, max_frames=4).truncated.tolist() == [2]


def test_video_rows_are_padded_and_masked(make):
    frames, mask, readable = make().video_rows(np.asarray([2, FILLING, 1, 0], np.int32))
    assert readable.tolist() == [True, False, False, True]
    assert mask.astype(int).tolist() == [[1, 1, 1, 0], [0] * 4, [0] * 4, [1] * 4]
    # Four frames of five: 0, 1, 2 and the last.
    expected = [[100, 110, 120, 0], [0] * 4, [0] * 4, [10, 20, 30, 50]]
    np.testing.assert_allclose(frames.astype(float).mean(axis=(2, 3, 4)), expected, atol=2)
    assert not frames[~mask].any()


def test_unreadable_videos_are_named_with_the_reason_and_read_once(make, decoded):
    source = make()
    for _ in range(2):
        source.video_rows(np.arange(4, dtype=np.int32))
    assert sorted(source.unreadable) == ["cut", "missing"]
    assert "No such file" in source.unreadable["missing"]
    assert "truncated" in source.unreadable["cut"]
    assert decoded == ["a", "missing", "b", "cut", "a", "b"]


def test_a_cache_reads_every_video_once_and_changes_nothing(make, decoded):
    plain, cached = make(), make(cache_gib=0.1)
    index = np.asarray([0, 1, 2, 3, 0, 2], np.int32)
    expected = plain.video_rows(index)
    decoded.clear()
    for _ in range(2):
        for got, wanted in zip(cached.video_rows(index), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert decoded == ["a", "missing", "b", "cut"]


def test_a_cache_keeps_to_its_size(make, decoded):
    """There is room for video a (4 frames), not for b (3 frames) too."""
    source = make(cache_gib=5 * SIZE * SIZE * 3 / 2**30)
    for _ in range(2):
        source.video_rows(np.asarray([0, 2], np.int32))
    assert decoded == ["a", "b", "b"]


def test_changing_a_row_does_not_change_the_cache(make):
    source = make(cache_gib=0.1)
    index = np.asarray([0], np.int32)
    first = source.video_rows(index)[0]
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(source.video_rows(index)[0], kept)


def test_transforms_belong_to_rows_and_leave_the_cache_alone(make, decoded):
    source = make(cache_gib=0.1)
    index = np.asarray([2, FILLING, 1, 2], np.int32)
    plain, mask, _ = source.video_rows(index)
    decoded.clear()
    transforms = [ImageOps.invert, ImageOps.invert, ImageOps.invert, lambda picture: picture]
    frames, changed_mask, readable = source.video_rows(index, transforms)
    assert decoded == ["b"]
    assert readable.tolist() == [True, False, False, True]
    np.testing.assert_array_equal(changed_mask, mask)
    np.testing.assert_array_equal(frames[0, :3], 255 - plain[0, :3])
    np.testing.assert_array_equal(frames[1:], plain[1:])
    assert not frames[~mask].any()
    np.testing.assert_array_equal(source.video_rows(index)[0], plain)
    assert decoded == ["b"]


def test_rows_of_a_video_decode_it_once(make, decoded):
    index = np.asarray([0, 2, 0, 0, 2], np.int32)
    frames, _, _ = make().video_rows(index)
    assert decoded == ["a", "b"]
    np.testing.assert_array_equal(frames[[1, 2, 3]], frames[[4, 0, 0]])


def test_clips_of_a_file_decode_it_once_and_do_not_meddle(split, decoded):
    """The last of them begins after the end of the file: the others do not suffer."""
    windows = ((0, 1), (None, None), (2, 4), (1, 1), (7, 9))
    path = split.videos[0].path
    records = [Record("a", f"{n}", path, start, end) for n, (start, end) in enumerate(windows)]
    source = Source(Split("clips", tuple(records)), Tokenizer(8), SIZE, max_frames=4, max_unreadable_rate=0.2)
    index = np.asarray([3, 0, 1, 2, 4, 2], np.int32)
    transforms = [Image.Image.copy, ImageOps.invert, *[Image.Image.copy] * 3, ImageOps.invert]
    frames, mask, readable = source.video_rows(index, transforms)
    assert decoded == ["a"]
    greys = [[20], [245, 235], [10, 20, 30, 50], [30, 40, 50], [], [225, 215, 205]]
    assert mask.sum(axis=1).tolist() == [len(row) for row in greys]
    for row, expected in zip(frames.astype(float).mean(axis=(2, 3, 4)), greys, strict=True):
        np.testing.assert_allclose(row[: len(expected)], expected, atol=2)
    assert readable.tolist() == [True, True, True, True, False, True]
    assert list(source.unreadable) == ["4"]


def test_one_caption_a_video_is_drawn_by_seed_epoch_and_video(split):
    records = tuple(Record(f"{n}", f"v{n % 3}", split.videos[n % 3].path) for n in range(10))
    source = Source(Split("ten", records), Tokenizer(8), SIZE, max_frames=4, captions_per_video="one")
    assert source.num_rows == 3
    videos, epochs = np.tile(np.arange(3), 200), np.repeat(np.arange(200), 3)
    drawn = source.draw_records(videos, epochs, seed=5)
    np.testing.assert_array_equal(source.split.video_index[drawn], videos)
    # Neither the order nor what else is asked for matters.
    np.testing.assert_array_equal(source.draw_records(videos[::-7], epochs[::-7], 5), drawn[::-7])
    assert (source.draw_records(videos, epochs, 6) != drawn).any()
    # Every caption has its turn: four of video 0, three of each other, 200 draws a video.
    counts = np.bincount(drawn, minlength=10)
    np.testing.assert_allclose(counts, np.where(np.arange(10) % 3 == 0, 50, 66.7), atol=30)


def test_all_captions_are_the_rows_of_an_epoch(make):
    source = make()
    assert source.num_rows == 5
    rows = np.asarray([4, 0, 2])
    np.testing.assert_array_equal(source.draw_records(rows, np.asarray([0, 3, 9]), seed=1), rows)


def test_threads_agree(make):
    source = make(cache_gib=0.1)
    expected = make().video_rows(np.arange(4, dtype=np.int32))[0]
    results = [None] * 8

    def read(number):
        order = np.roll(np.arange(4, dtype=np.int32), number)
        results[number] = np.roll(source.video_rows(order)[0], -number, axis=0)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_array_equal(result, expected)
    assert sorted(source.unreadable) == ["cut", "missing"]


def test_account_allows_the_given_share_and_no_more(make):
    unreadable = np.asarray([1, 3], np.int32)
    make(max_unreadable_rate=0.5).account(unreadable)
    source = make(max_unreadable_rate=0.25)
    source.account(unreadable[:1])
    with pytest.raises(DataError, match=r"split 'tiny': got 2 of 4 unreadable, wanted at most 25\.00%") as caught:
        source.account(unreadable[1:])
    assert "missing: " in str(caught.value)
    assert "No such file" in str(caught.value)
    assert "cut: " in str(caught.value)


def test_a_long_list_of_unreadable_videos_is_cut(tmp_path):
    records = tuple(Record("a", f"v{n:02}", tmp_path / f"{n}.mp4") for n in range(53))
    source = Source(Split("s", records), Tokenizer(8), SIZE, max_frames=4)
    with pytest.raises(DataError, match="53 of 53 unreadable") as caught:
        source.account(np.arange(53, dtype=np.int32))
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines[1:51]] == [f"  v{n:02}" for n in range(50)]
    assert lines[51:] == ["  and 3 more."]
    assert len(source.unreadable) == 53


def test_account_finds_the_reason_that_a_worker_found(make):
    source = make()
    worker = pickle.loads(pickle.dumps(source))
    worker.video_rows(np.arange(4, dtype=np.int32))
    assert source.unreadable == {}
    source.account(np.asarray([1, 3], np.int32))
    assert source.unreadable == worker.unreadable


def test_a_video_that_only_a_worker_could_not_read_stays_out(make):
    source = make()
    source.account(np.asarray([0], np.int32))
    assert source.unreadable == {"a": "failed in a worker process, not here"}
    assert not source.video_rows(np.asarray([0], np.int32))[2].any()


def test_a_copy_starts_with_an_empty_cache(make, decoded):
    source = make(cache_gib=0.1)
    source.video_rows(np.asarray([0], np.int32))
    pickle.loads(pickle.dumps(source)).video_rows(np.asarray([0], np.int32))
    assert decoded == ["a", "a"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames_per_second": 0.0}, "frames_per_second"),
        ({"cache_gib": -1.0}, "cache_gib"),
        ({"max_unreadable_rate": 2.0}, "max_unreadable_rate"),
        ({"video_timeout": -1.0}, "video_timeout"),
        ({"captions_per_video": "two"}, "captions_per_video: got 'two', wanted 'all' or 'one'"),
    ],
)
def test_options_out_of_range_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_the_middle_of_every_segment_unless_others_are_drawn(make, decoded):
    """Video a in two segments: frames 0, 1 and 2, 3, 4. Two views of a video share one decoding pass."""
    index = np.asarray([0, 0, 2], np.int32)
    drawn = [(0.0, 0.0), (0.9, 0.9), (0.9, 0.4)]
    expected = {"middle": [[20, 40], [20, 40], [100, 120]], "drawn": [[10, 30], [20, 50], [100, 120]]}
    expected["drawn"][2] = [100, 110]
    for options in ({}, {"cache_gib": 0.1}):
        source = Source(make().split, Tokenizer(8), SIZE, max_frames=2, sampling="segments", **options)
        decoded.clear()
        for draws, wanted in ((None, expected["middle"]), (drawn, expected["drawn"])):
            frames, mask, readable = source.video_rows(index, draws=draws)
            np.testing.assert_allclose(frames.mean(axis=(2, 3, 4)), wanted, atol=3)
            assert mask.all()
            assert readable.all()
        assert decoded == ["a", "b"] * (1 if options else 2)


def test_draws_need_segments(make):
    with pytest.raises(ValueError, match="draws: got some with sampling='even', wanted none"):
        make().video_rows(np.asarray([0], np.int32), draws=[(0.5,) * 4])
    with pytest.raises(ValueError, match="sampling: got 'odd', wanted 'even' or 'segments'"):
        make(sampling="odd")
