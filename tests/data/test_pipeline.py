import dataclasses
import itertools

import jax
import numpy as np
import pytest

from hbi_jax.data.augment import CropFlip, RandAugment
from hbi_jax.data.datasets import DataError, Record, Split
from hbi_jax.data.pipeline import batch_records, text_batches, train_batches, video_batches
from hbi_jax.data.source import FILLING, Source
from hbi_jax.data.text import Tokenizer

NUM_VIDEOS, BROKEN = 7, 5


@pytest.fixture(scope="module")
def split(tmp_path_factory, write_video):
    """Ten captions of seven videos; video 5 is empty, video `i` begins with the grey 30 * i."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(NUM_VIDEOS):
        greys = [30 * number + step for step in range(2 + number % 3)]
        path = write_video(folder / f"v{number}.mp4", greys, fps=1)
        if number == BROKEN:
            path.write_bytes(b"")
    videos = (0, 1, 1, 2, 3, 4, 4, 4, 5, 6)
    records = (Record(f"{n} of {v}", f"v{v}", folder / f"v{v}.mp4") for n, v in enumerate(videos))
    return Split("tiny", tuple(records))


@pytest.fixture
def make(split):
    def make_source(**options):
        return Source(split, Tokenizer(8), 16, max_frames=3, **({"max_unreadable_rate": 0.2} | options))

    return make_source


def _take(batches, number):
    with batches:
        return list(itertools.islice(batches, number))


def _assert_equal(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        for name, a, b in zip(one._fields, one, other, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.fixture(scope="module")
def reference(split):
    """Eight global batches of four rows: three epochs and two rows."""
    source = Source(split, Tokenizer(8), 16, max_frames=3, max_unreadable_rate=0.2)
    return _take(train_batches(source, 4, seed=3, num_threads=0), 8)


@pytest.fixture(scope="module")
def augmented(split, reference):
    """What they are with RandAugment: row `r` of step `s` draws from (seed, s, r)."""
    source = Source(split, Tokenizer(8), 16, max_frames=3, max_unreadable_rate=0.2)
    batches = []
    for step, batch in enumerate(reference):
        texts = [split.records[record].text for record in batch.record_index]
        transforms = [RandAugment()(text, np.random.default_rng((3, step, row))) for row, text in enumerate(texts)]
        batches.append(batch._replace(frames=source.video_rows(batch.video_index, transforms)[0]))
    return batches


def test_every_epoch_is_another_permutation(reference):
    order = np.concatenate([batch.record_index for batch in reference])
    epochs = [order[start : start + 10].tolist() for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_seed_sets_the_order(make, reference):
    other = _take(train_batches(make(), 4, seed=4), 2)
    order = [np.concatenate([batch.record_index for batch in batches[:2]]) for batches in (reference, other)]
    assert order[0].tolist() != order[1].tolist()


def test_rows_belong_together(split, reference):
    tokenizer = Tokenizer(8)
    for batch in reference:
        for row, number in enumerate(batch.record_index):
            record = split.records[number]
            video = int(record.video_id[1:])
            assert batch.video_index[row] == split.video_index[number] == video
            assert batch.example_mask[row] == (video != BROKEN)
            if video != BROKEN:
                assert tokenizer.decode(batch.token_ids[row]) == record.text
                assert batch.text_mask[row].sum() == 5
                assert batch.frame_mask[row].sum() == min(2 + video % 3, 3)
                assert abs(batch.frames[row, 0].mean() - 30 * video) < 3


def test_an_unreadable_video_is_masked_and_named(make):
    source = make()
    batches = _take(train_batches(source, 10, seed=0), 1)
    (row,) = np.flatnonzero(~batches[0].example_mask)
    assert batches[0].record_index[row] == 8
    for name in ("token_ids", "text_mask", "frames", "frame_mask"):
        assert not getattr(batches[0], name)[row].any()
    assert list(source.unreadable) == ["v5"]
    assert "v5.mp4: Invalid data" in source.unreadable["v5"]


def test_too_many_unreadable_videos_stop_the_run(make):
    batches = train_batches(make(max_unreadable_rate=0.1), 10, seed=0)
    with batches, pytest.raises(DataError, match=r"got 1 of 7 unreadable, wanted at most 10\.00%"):
        next(batches)


def _shares(count):
    """The rows of a batch of four that each process gets."""
    return np.split(np.arange(4), count)


def test_rows_of_any_processes_are_rows_of_the_global_batch(make, reference):
    """Those of a process need not be next to each other, and several processes may have the same."""
    mine = np.array([0, 3])
    for got, whole in zip(_take(train_batches(make(), 4, 3, mine=mine), 8), reference, strict=True):
        _assert_equal([got], [jax.tree.map(lambda array: array[mine], whole)])


@pytest.mark.parametrize("captions_per_video", ["all", "one"])
def test_the_records_of_a_step_are_known_without_decoding(make, captions_per_video):
    source = make(captions_per_video=captions_per_video)
    for step, batch in enumerate(_take(train_batches(source, 4, 3), 8)):
        np.testing.assert_array_equal(batch_records(source, 4, 3, step), batch.record_index)


@pytest.mark.parametrize("augmentation", [None, RandAugment()])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_share_the_global_batch(make, reference, augmented, count, augmentation):
    parts = [_take(train_batches(make(), 4, 3, mine=m, augmentation=augmentation), 8) for m in _shares(count)]
    merged = [jax.tree.map(lambda *shares: np.concatenate(shares), *batches) for batches in zip(*parts, strict=True)]
    _assert_equal(merged, augmented if augmentation else reference)


@pytest.mark.parametrize("step", [0, 1, 2, 5])
def test_a_run_continues_at_any_step(make, reference, step):
    _assert_equal(_take(train_batches(make(), 4, 3, start_step=step), 8 - step), reference[step:])


@pytest.mark.parametrize("step", [0, 1, 5])
def test_a_run_with_augmentation_continues_at_any_step(make, augmented, step):
    batches = train_batches(make(), 4, 3, start_step=step, num_threads=step % 4, augmentation=RandAugment())
    _assert_equal(_take(batches, 8 - step), augmented[step:])


def test_augmentation_changes_the_frames_and_nothing_else(reference, augmented):
    for plain, batch in zip(reference, augmented, strict=True):
        _assert_equal([plain._replace(frames=batch.frames)], [batch])
    real = [batch.frames[batch.example_mask] for batch in reference]
    changed = [batch.frames[batch.example_mask] for batch in augmented]
    rows = np.concatenate([(a != b).any(axis=(1, 2, 3, 4)) for a, b in zip(real, changed, strict=True)])
    assert 0.6 < rows.mean() < 1


def test_a_row_comes_back_otherwise_at_another_step_and_with_another_seed(make):
    """All ten records are a batch: every record comes back at every step."""

    def frames(seed):
        batches = _take(train_batches(make(), 10, seed, augmentation=RandAugment(num_ops=20)), 2)
        return [batch.frames[np.argsort(batch.record_index)][:8] for batch in batches]

    (first, second), (other, _) = frames(3), frames(4)
    for one, another in ((first, second), (first, other)):
        assert (one != another).any(axis=(1, 2, 3, 4)).all()


def test_all_texts_of_the_video_decide_on_mirroring(split, make, monkeypatch):
    """Other captions and questions of the video, and answers, may be drawn beside that of the row."""
    texts = []

    def draw(self, text, rng):
        texts.append(text)
        return lambda picture: picture

    monkeypatch.setattr(CropFlip, "__call__", draw)
    (batch,) = _take(train_batches(make(), 10, 3, num_threads=0, augmentation=CropFlip()), 1)
    wanted = {video: [] for video in range(split.num_videos)}
    for record, video in zip(split.records, split.video_index.tolist(), strict=True):
        wanted[video] += [record.text]
    assert texts == [" ".join(wanted[video]) for video in batch.video_index.tolist()]
    assert max(map(len, wanted.values())) > 1


def test_an_answer_decides_on_mirroring_too(split):
    asked = [dataclasses.replace(split.records[0], text="where is the cat?", answer=answer) for answer in ("left", "x")]
    source = Source(Split("train", tuple(asked)), Tokenizer(8), 16, max_frames=3)
    assert source.texts_of(0) == "where is the cat? left where is the cat? x"
    assert not CropFlip(flip_rate=1.0)(source.texts_of(0), np.random.default_rng(0)).mirrored


@pytest.fixture(scope="module")
def single(split):
    """Seven global batches of four rows: four epochs of seven videos, each with one of its captions."""
    source = Source(split, Tokenizer(8), 16, max_frames=3, max_unreadable_rate=0.2, captions_per_video="one")
    return _take(train_batches(source, 4, seed=3, num_threads=0), 7)


def test_with_one_caption_an_epoch_visits_every_video_once(split, single):
    videos = np.concatenate([batch.video_index for batch in single])
    epochs = [videos[start : start + 7].tolist() for start in (0, 7, 14, 21)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    records = np.concatenate([batch.record_index for batch in single])
    np.testing.assert_array_equal(split.video_index[records], videos)
    # Captions 5, 6 and 7 are of video 4: it has not the same one in all epochs.
    assert len({record for record, video in zip(records.tolist(), videos.tolist(), strict=True) if video == 4}) > 1
    for batch in single:
        for row, number in enumerate(batch.record_index):
            if batch.example_mask[row]:
                assert Tokenizer(8).decode(batch.token_ids[row]) == split.records[number].text
                assert abs(batch.frames[row, 0].mean() - 30 * batch.video_index[row]) < 3


@pytest.mark.parametrize(
    ("start", "workers", "count"), [(0, 0, 1), (0, 0, 2), (0, 0, 4), (2, 0, 1), (5, 0, 2), (3, 2, 1)], ids=str
)
def test_with_one_caption_nothing_but_seed_and_step_matters(make, single, start, workers, count):
    options = {"start_step": start, "num_workers": workers, "num_threads": 1, "prefetch": 1}
    parts = [
        _take(train_batches(make(captions_per_video="one"), 4, 3, mine=mine, **options), 7 - start)
        for mine in _shares(count)
    ]
    merged = [jax.tree.map(lambda *shares: np.concatenate(shares), *batches) for batches in zip(*parts, strict=True)]
    _assert_equal(merged, single[start:])


def test_with_one_caption_a_batch_has_no_more_rows_than_there_are_videos(make):
    with pytest.raises(ValueError, match="batch_size: got 8, wanted 1 to 7, the videos of split 'tiny'"):
        train_batches(make(captions_per_video="one"), 8, 0)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(make, reference, threads):
    _assert_equal(_take(train_batches(make(), 4, 3, num_threads=threads, prefetch=2 * threads), 8), reference)


def test_a_cache_changes_nothing(make, reference):
    _assert_equal(_take(train_batches(make(cache_gib=0.1), 4, 3), 8), reference)


@pytest.mark.parametrize(
    ("start", "workers", "augmentation"), [(3, 2, None), (0, 1, RandAugment()), (3, 2, RandAugment())]
)
def test_worker_processes_change_nothing(make, reference, augmented, start, workers, augmentation):
    source, options = make(), {"num_threads": 1, "prefetch": 1, "augmentation": augmentation}
    batches = _take(train_batches(source, 4, 3, start_step=start, num_workers=workers, **options), 5)
    _assert_equal(batches, (augmented if augmentation else reference)[start : start + 5])
    assert list(source.unreadable) == ["v5"]


def test_text_batches_cover_the_records_once(split, make):
    batches = list(text_batches(make(), 4))
    assert [batch.record_index.tolist() for batch in batches] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, FILLING, FILLING],
    ]
    expected, mask = Tokenizer(8).encode([record.text for record in split.records])
    np.testing.assert_array_equal(np.concatenate([batch.token_ids for batch in batches])[:10], expected)
    np.testing.assert_array_equal(np.concatenate([batch.text_mask for batch in batches])[:10], mask)
    assert batches[2].example_mask.tolist() == [True, True, False, False]
    assert not batches[2].token_ids[2:].any()


def test_video_batches_cover_the_videos_once(make):
    source = make()
    with video_batches(source, 4) as iterator:
        batches = list(iterator)
    assert [batch.video_index.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, FILLING]]
    assert [batch.example_mask.tolist() for batch in batches] == [[True] * 4, [True, False, True, False]]
    greys = np.concatenate([batch.frames[:, 0].mean(axis=(1, 2, 3)) for batch in batches])
    np.testing.assert_allclose(greys, [0, 30, 60, 90, 120, 0, 180, 0], atol=3)
    assert list(source.unreadable) == ["v5"]


def test_processes_share_a_gallery(make):
    source = make()
    for batches in (text_batches, video_batches):
        whole = list(batches(source, 4))
        parts = [list(batches(source, 4, mine)) for mine in _shares(2)]
        merged = [
            type(pair[0])(*(np.concatenate(arrays) for arrays in zip(*pair, strict=True)))
            for pair in zip(*parts, strict=True)
        ]
        _assert_equal(merged, whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 11}, "batch_size: got 11, wanted 1 to 10, the records of split 'tiny'"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"mine": np.array([3, 4])}, r"mine: got \[3, 4\], wanted ascending rows of a batch of 4"),
        ({"mine": np.array([1, 0])}, r"mine: got \[1, 0\], wanted ascending"),
        ({"start_step": -1}, "start_step: got -1"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_impossible_batches_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        train_batches(make(), **({"batch_size": 4, "seed": 0} | options))


def test_a_cache_and_workers_exclude_each_other(make):
    with pytest.raises(ValueError, match="num_workers: got 2 with a cache of clips, wanted 0"):
        train_batches(make(cache_gib=0.1), 4, 0, num_workers=2)


def test_a_cache_and_augmentation_exclude_each_other(make):
    with pytest.raises(ValueError, match="augmentation: got one with a cache of clips, wanted none"):
        train_batches(make(cache_gib=0.1), 4, 0, augmentation=CropFlip())


@pytest.fixture(scope="module")
def longer(tmp_path_factory, write_video):
    """Five videos of eight frames."""
    folder = tmp_path_factory.mktemp("longer")
    for number in range(5):
        write_video(folder / f"v{number}.mp4", [40 * number + 5 * step for step in range(8)], fps=1)
    return Split("longer", tuple(Record(f"{n}", f"v{n}", folder / f"v{n}.mp4") for n in range(5)))


def of_segments(split, **options):
    return Source(split, Tokenizer(8), 16, max_frames=2, sampling="segments", **options)


def test_two_views_are_drawn_from_seed_step_and_row(longer):
    """The same on two processes, when resumed, with workers and with a cache; each within its segments."""
    reference = _take(train_batches(of_segments(longer), 4, 3, num_threads=0, num_views=2), 3)
    views = np.stack([[batch.frames, batch.second_frames] for batch in reference]).mean(axis=(-1, -2, -3))
    place = (views - 40 * np.stack([batch.video_index for batch in reference])[:, None, :, None]) / 5
    steps = np.rint(place).astype(int)
    assert np.abs(place - steps).max() < 0.5
    assert steps[..., 0].max() <= 3 < steps[..., 1].min()
    assert len(np.unique(steps[..., 0])) == 4
    assert (steps[:, 0] != steps[:, 1]).any(axis=-1).mean() > 0.5
    for start, options in ((1, {"num_workers": 1}), (1, {}), (0, {"cache_gib": 0.1})):
        source = of_segments(longer, cache_gib=options.pop("cache_gib", 0.0))
        parts = [
            _take(train_batches(source, 4, 3, start_step=start, mine=mine, num_views=2, **options), 3 - start)
            for mine in _shares(2)
        ]
        merged = [jax.tree.map(lambda *shares: np.concatenate(shares), *pair) for pair in zip(*parts, strict=True)]
        _assert_equal(merged, reference[start:])


def test_one_view_is_the_first_of_two(longer):
    one = _take(train_batches(of_segments(longer), 4, 3, num_views=1), 2)
    two = _take(train_batches(of_segments(longer), 4, 3, num_views=2), 2)
    _assert_equal(one, [batch._replace(second_frames=None, second_mask=None) for batch in two])


def test_views_that_cannot_differ_are_named(longer):
    """There are as many frames as segments."""
    source = Source(longer, Tokenizer(8), 16, max_frames=8, sampling="segments")
    batches = train_batches(source, 4, 3, num_views=2)
    with batches:
        for _ in range(7):
            next(batches)
        with pytest.raises(
            DataError, match=r"2 equal views of every video of 8 batches, .* lower config.data.num_frames"
        ):
            next(batches)


def test_two_views_need_segments(make):
    with pytest.raises(ValueError, match="num_views: got 2 with sampling='even', wanted 1, or 2 with"):
        train_batches(make(), 4, 0, num_views=2)
