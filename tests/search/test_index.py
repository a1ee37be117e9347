"""An index: what is added, updated and dropped; that searching it is what evaluation computes; what goes wrong."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from hbi_jax.data.decode import VideoError
from hbi_jax.search import index as module
from hbi_jax.search import ingest, store
from hbi_jax.search.clips import read_clips
from hbi_jax.search.config import SearchError
from hbi_jax.search.index import open_index
from tests.logs import told
from tests.search.conftest import MODEL, make_index, tiny_encoder

TEXT = "a red square slides left"
REAL = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "videos"


@pytest.fixture
def index(encoder, tmp_path):
    with make_index(tmp_path / "my.index", encoder) as made:
        yield made


def clips_of(index):
    """Every clip that counts, by file name and start: its stored tokens of the finest level."""
    out = {}
    for segment in index.catalogue.segments:
        arrays = segment.arrays()
        for row in np.flatnonzero(segment.alive):
            file = segment.files[segment.clips.source[row]]
            out[os.path.basename(file.path), float(segment.clips.start[row])] = arrays["entity.features"][row]
    return out


def brute_force(encoder, videos, text):
    """Every clip by file name and start, the best first, read and scored one by one, as evaluation scores."""
    texts, out = encoder.texts([text]), {}
    for path in videos.rglob("*.mp4"):
        clips, _ = read_clips(path, encoder.clips)
        scores = encoder.similarity(texts, encoder.encode_clips(clips.frames, clips.mask))[0]
        out |= {(path.name, start): score for start, score in zip(clips.start.tolist(), scores.tolist(), strict=True)}
    return dict(sorted(out.items(), key=lambda entry: -entry[1]))


def test_a_search_ranks_as_evaluation_does(index, encoder, videos):
    done = index.add(videos)
    assert (done.added, done.files, done.clips, done.unreadable) == (5, 5, 9, {})
    wanted = brute_force(encoder, videos, TEXT)
    found = index.search(TEXT, top=20)
    assert len(found) == 4 + 3  # three of the five clips of the long video do not overlap
    for moment in found:
        name = os.path.basename(moment.video)
        np.testing.assert_allclose(moment.score, wanted[name, moment.start], atol=1e-6)
        assert moment.words == ("a", "red", "square", "slides", "left", "(whole text)")
        assert moment.interaction.shape == (6, len(moment.frames))
        assert moment.start <= moment.frames[0] <= moment.frames[-1] < moment.end
    assert [moment.score for moment in found] == sorted((moment.score for moment in found), reverse=True)
    assert (os.path.basename(found[0].video), found[0].start) == next(iter(wanted))
    assert [moment[:4] for moment in index.search(TEXT, top=2)] == [moment[:4] for moment in found[:2]]


def test_the_model_itself_ranks_what_the_scan_cannot_compute(videos, tmp_path):
    """HBI V2 reconstructs the tokens of every pair."""
    encoder = tiny_encoder(dataclasses.replace(MODEL, reconstruction=True, gate_features=8))
    assert not encoder.scans_exactly
    with make_index(tmp_path / "my.index", encoder) as index:
        index.add(videos)
        wanted = brute_force(encoder, videos, TEXT)
        found = index.search(TEXT)
    scores = {(os.path.basename(moment.video), moment.start): moment.score for moment in found}
    for clip, score in scores.items():
        np.testing.assert_allclose(score, wanted[clip], atol=1e-5)
    assert next(iter(scores)) == next(iter(wanted))


def test_devices_share_an_index(index, videos):
    index.add(videos)
    wanted = index.search(TEXT)
    with module.Index(index.folder, tiny_encoder(devices=2), store.Manifest.read(index.folder)) as shared:
        found = shared.search(TEXT)
    assert [moment[:3] for moment in found] == [moment[:3] for moment in wanted]
    np.testing.assert_allclose([m.score for m in found], [m.score for m in wanted], atol=1e-6)


def test_a_video_finds_itself(index, videos):
    index.add(videos)
    (short,) = videos.glob("video*1.mp4") if list(videos.glob("video*1.mp4")) else [min(videos.rglob("video*.mp4"))]
    best, *_ = index.search_like(short, top=3)
    assert best.video == str(short)
    # Both levels, at rates of 1 and 0.5, are equal to themselves.
    np.testing.assert_allclose(best.score, 1.5, atol=1e-5)
    assert best.interaction.shape == (len(best.words), len(best.frames))
    long = next(videos.rglob("long.mp4"))
    assert index.search_like(long, top=1, start=4.0, end=8.0)[0][:3] == (str(long), 4.0, 8.0)
    with pytest.raises(VideoError, match=r"absent.mp4: No such file"):
        index.search_like(videos / "absent.mp4")


def test_texts_are_ranked_for_a_video(index, encoder, videos):
    video = min(videos.rglob("video*.mp4"))
    texts = [TEXT, "a blue circle spins", "a small green triangle"]
    found = index.rank_texts(video, texts)
    clips, _ = read_clips(video, encoder.clips)
    wanted = encoder.similarity(encoder.texts(texts), encoder.encode_clips(clips.frames, clips.mask))[:, 0]
    assert [match.text for match in found] == [texts[row] for row in np.argsort(-wanted)]
    np.testing.assert_allclose([match.score for match in found], np.sort(wanted)[::-1], atol=1e-6)
    assert index.rank_texts(video, texts, top=1) == found[:1]


def test_only_what_is_new_or_changed_is_read(index, encoder, videos, monkeypatch):
    index.add(videos)
    before, read = clips_of(index), []
    encode = ingest.encode_files

    def counted(encoder, files, progress):
        read.extend(os.path.basename(path) for path, _ in files)
        return encode(encoder, files, progress)

    monkeypatch.setattr(ingest, "encode_files", counted)
    again = index.add(videos)
    assert (again.added, again.unchanged, read) == (0, 5, [])
    changed, gone, *_ = sorted(videos.rglob("video*.mp4"))
    shutil.copy(next(videos.rglob("long.mp4")), changed)
    gone.unlink()
    shutil.copy(changed, videos / "new.mp4")
    done = index.add(videos)
    assert (done.added, done.updated, done.unchanged, done.dropped, done.files) == (1, 1, 3, 1, 5)
    assert sorted(read) == sorted([changed.name, "new.mp4"])
    after = clips_of(index)
    assert {name for name, _ in after} == {path.name for path in videos.rglob("*.mp4")}
    assert done.clips == len(after)
    for start in (0.0, 2.0, 4.0, 6.0, 8.0):
        np.testing.assert_array_equal(after[changed.name, start], before["long.mp4", start])
    # What was opened anew is the same.
    with module.Index(index.folder, encoder, store.Manifest.read(index.folder)) as reopened:
        assert [moment[:4] for moment in reopened.search(TEXT)] == [moment[:4] for moment in index.search(TEXT)]


def test_files_outside_the_given_folders_stay(index, videos):
    index.add(videos)
    inner = videos / "deep"
    next(inner.rglob("*.mp4")).unlink()
    outer = next(videos.glob("*.mp4"))
    outer.rename(videos / "elsewhere.txt")
    done = index.add(inner)
    assert (done.dropped, done.files) == (1, 4)
    assert str(outer) in {file.path for file in index.files}


def test_segments_are_merged_where_much_is_dropped(index, videos, monkeypatch):
    monkeypatch.setattr(ingest, "_FILES_PER_SHARD", 2)
    index.add(videos)
    assert len(index.catalogue.segments) == 3
    next(videos.rglob("long.mp4")).unlink()
    index.add(videos)
    assert len(index.catalogue.segments) == 1
    folders = {path.name for path in (index.folder / "segments").iterdir()}
    assert folders == set(store.Manifest.read(index.folder).segments)
    before = clips_of(index)
    assert len(before) == 4
    assert {os.path.basename(moment.video) for moment in index.search(TEXT)} == {name for name, _ in before}


def test_unreadable_files_are_named_every_time_and_the_others_indexed(index, videos):
    (videos / "broken.mp4").write_bytes(b"no video")
    for _ in range(2):
        done = index.add([videos, videos / "absent.mp4"])
        assert sorted(done.unreadable) == [str(videos / "absent.mp4"), str(videos / "broken.mp4")]
        assert "No such file" in done.unreadable[str(videos / "absent.mp4")]
        assert done.files == 5
    shutil.copy(next(videos.rglob("long.mp4")), videos / "broken.mp4")
    assert index.add(videos).unreadable == {}


def test_a_file_without_permission_is_read_once_it_has_it(index, videos, monkeypatch):
    closed, access = str(next(videos.rglob("long.mp4"))), os.access

    def denied(path, mode):
        return path != closed and access(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "access", denied)
        for _ in range(2):
            done = index.add(videos)
            assert (done.files, done.unreadable) == (4, {closed: f"{closed}: Permission denied"})
    assert index.add(videos).added == 1
    # What is in the index stays, even if the file has changed.
    os.utime(closed, (1, 1))
    monkeypatch.setattr(os, "access", denied)
    done = index.add(videos)
    assert (done.dropped, done.files, done.clips) == (0, 5, 9)
    assert done.unreadable == {closed: f"{closed}: Permission denied"}
    os.unlink(closed)
    assert index.add(videos).dropped == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_system_is_not_remembered(index, videos, monkeypatch, workers):
    monkeypatch.setattr(ingest, "_FILES_PER_SHARD", 2)
    read, tries, failing = ingest.read_clips, [], {str(path) for path in videos.rglob("*.mp4") if path.parent != videos}

    def fails(path, *arguments):
        tries.append(path)
        if path in failing:
            raise VideoError(path, "Input/output error") from OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path, *arguments)

    def add():
        tries.clear()
        *_, last = (index.add(videos, worker, workers) for worker in range(workers))
        return last

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "read_clips", fails)
        for number in range(3):
            done = add()
            assert done.unreadable == {path: f"{path}: Input/output error" for path in sorted(failing)}
            assert set(tries) == failing if number else len(set(tries)) == 5
            assert done.files == 5 - len(failing)
    done = add()
    assert (done.files, done.clips, done.unreadable) == (5, 9, {})
    assert add().unchanged == 5


@pytest.mark.parametrize("restored", [False, True])
def test_a_file_that_changes_while_it_is_read_is_not_indexed(index, videos, monkeypatch, restored):
    read, victim = ingest.read_clips, str(next(videos.rglob("long.mp4")))
    before = os.stat(victim)

    def grown(path, *arguments):
        found = read(path, *arguments)
        if path == victim:
            with open(path, "ab") as file:
                file.write(b"more")
        return found

    monkeypatch.setattr(ingest, "read_clips", grown)
    done = index.add(videos)
    assert done.unreadable == {victim: f"{victim}: changed while it was read; index it again when it is complete"}
    assert done.clips == 4
    monkeypatch.undo()
    if restored:
        os.truncate(victim, before.st_size)
        os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert index.add(victim).unreadable == {}


def test_an_interruption_costs_the_shard_at_hand(index, videos, monkeypatch):
    monkeypatch.setattr(ingest, "_FILES_PER_SHARD", 2)
    encode, made = ingest.encode_files, []

    def stops(encoder, files, progress):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(files)
        return encode(encoder, files, progress)

    monkeypatch.setattr(ingest, "encode_files", stops)
    with pytest.raises(KeyboardInterrupt):
        index.add(videos)
    assert len({moment.video for moment in index.search(TEXT)}) == 4
    monkeypatch.setattr(ingest, "encode_files", encode)
    done = index.add(videos)
    assert (done.added, done.unchanged, done.files, done.clips) == (1, 4, 5, 9)


def test_workers_share_the_shards_and_the_last_one_finishes(index, encoder, videos, monkeypatch):
    monkeypatch.setattr(ingest, "_FILES_PER_SHARD", 1)
    first = index.add(videos, worker=0, workers=2)
    assert (first.files, first.missing) == (0, 2)
    assert index.search(TEXT) == []
    with module.Index(index.folder, encoder, store.Manifest.read(index.folder)) as other:
        last = other.add(videos, worker=1, workers=2)
        assert (last.files, last.clips, last.missing) == (5, 9, 0)
        shared = clips_of(other)
    alone = make_index(index.folder.parent / "alone", encoder)
    alone.add(videos)
    for clip, features in clips_of(alone).items():
        np.testing.assert_allclose(shared[clip], features, atol=1e-6)
    assert index.add(videos).unchanged == 5


def test_without_the_others_a_worker_can_finish(index, videos, monkeypatch):
    monkeypatch.setattr(ingest, "_FILES_PER_SHARD", 1)
    done = index.add(videos, worker=2, workers=3, finish=True)
    assert (done.files, done.missing) == (1, 4)
    with pytest.raises(SearchError, match=r"worker=3: wanted 0 to 2 of workers=3"):
        index.add(videos, worker=3, workers=3)


def test_two_do_not_write_at_once(index, videos):
    with store.writing(index.folder), pytest.raises(SearchError, match=rf"being written by process {os.getpid()} on"):
        index.add(videos)
    assert index.add(videos).added == 5


def test_a_read_only_index_is_searched_but_not_changed(index, videos):
    index.add(videos)
    for path in (index.folder, index.folder / "lock"):
        path.chmod(0o555)
    try:
        if os.access(index.folder, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(SearchError, match=r"cannot be written .* searching it works"):
            index.add(videos)
        assert index.search(TEXT)
    finally:
        index.folder.chmod(0o755)


def test_a_folder_without_videos_changes_nothing(index, videos, tmp_path):
    index.add(videos)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SearchError, match=r"empty: got no video in it, wanted one or more"):
        index.add([videos, tmp_path / "empty"])
    shutil.move(videos, tmp_path / "unmounted")
    videos.mkdir()
    with pytest.raises(SearchError, match="got no video in it"):
        index.add(videos)
    assert index.num_clips == 9
    with pytest.raises(SearchError, match="videos: got none"):
        index.add([])


def test_a_query_needs_words(index, caplog):
    for text in ("", "  "):
        with pytest.raises(ValueError, match=r"text 1 of 1: got .*, wanted words"):
            index.search(text)
    with pytest.raises(ValueError, match="top=0: wanted 1 moment or more"):
        index.search(TEXT, top=0)
    with caplog.at_level("WARNING", logger="hbi_jax"):
        assert index.search("красный квадрат") == []
        assert "is written in another script (Cyrillic)" in caplog.text
        caplog.clear()
        index.search("красный квадрат " * 10_000)
    assert [record.getMessage().split(" ", 1)[0] for record in told(caplog)] == ["'красный"] * 2
    assert all(len(record.getMessage()) < 1000 for record in told(caplog))
    with pytest.raises(ValueError, match=r"text 1 of 1: got ' {300}', wanted words"):
        index.search(" " * 10_000)


def test_what_is_no_index_is_named(tmp_path, videos, encoder):
    with pytest.raises(SearchError, match=r"nothing is no index: .* make one: python -m hbi_jax.search index"):
        open_index(tmp_path / "nothing")
    with pytest.raises(SearchError, match=r"make one: python -m hbi_jax.search index '.*/not there' --checkpoint"):
        open_index(tmp_path / "not there")
    with pytest.raises(SearchError, match=r"videos holds .* but no index: wanted a new or empty folder"):
        open_index(videos, checkpoint="runs/a")
    with make_index(tmp_path / "my.index", encoder) as index:
        index.add(videos)
    manifest = index.folder / "index.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"format": 0}))
    with pytest.raises(SearchError, match=r"index of format 0: wanted 2, that of this version; index the videos again"):
        open_index(index.folder)
    manifest.write_text(json.dumps(content | {"segments": {"../../videos": []}}))
    with pytest.raises(SearchError, match=r"index.json is damaged \(a segment's name is no plain name\)"):
        open_index(index.folder)
    manifest.write_text(json.dumps(content)[:-20])
    with pytest.raises(SearchError, match=r"index.json is damaged"):
        open_index(index.folder)
    manifest.write_text(json.dumps(content))
    with pytest.raises(SearchError, match=r"was at /where/it/was and cannot be opened there .* --checkpoint=FOLDER"):
        open_index(index.folder)
    with pytest.raises(SearchError, match=r"clip_seconds=3.0: wanted 0.0, with which the index"):
        open_index(index.folder, clip_seconds=3.0)


def _flipped(content):
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("entity.features.npy", lambda content: content[:1000]),
        ("entity.features.npy", lambda content: b""),
        ("clips.npz", lambda content: content[:1000]),
        ("clips.npz", lambda content: b""),
        ("clips.npz", _flipped),
        ("files.json", lambda content: content[:-10]),
    ],
)
def test_a_damaged_segment_is_told(index, encoder, videos, name, damage):
    index.add(videos)
    file = next(index.folder.rglob(name))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(SearchError, match=r"is damaged \(.*\); index the videos again"):
        module.Index(index.folder, encoder, store.Manifest.read(index.folder))


@pytest.mark.parametrize(
    ("name", "change", "wanted"),
    [
        ("action.features", None, r"nothing for a clip, wanted float32 of shape \(3, 32\)"),
        ("pooled", None, r"nothing for a clip, wanted float32 of shape \(32,\)"),
        ("entity.weight", lambda array: array.astype(str), r"<U32 of shape \(5,\) for a clip, wanted float32"),
        ("entity.features", lambda array: array[..., :1], r"float32 of shape \(5, 1\) for a clip, wanted .*5, 32"),
        ("entity.mask", lambda array: array.astype(int), r"int64 of shape \(5,\) for a clip, wanted bool"),
        ("other", lambda array: array, r"float32 of shape \(32,\) for a clip, wanted nothing"),
    ],
)
def test_arrays_that_are_not_those_of_the_model_are_damage(index, encoder, videos, name, change, wanted):
    index.add(videos)
    (segment,) = index.catalogue.segments
    file = segment.folder / f"{name}.npy"
    array = np.load(file if file.exists() else segment.folder / "pooled.npy")
    file.unlink(missing_ok=True)
    if change is not None:
        np.save(file, change(array))
    with pytest.raises(SearchError, match=rf"{name}.npy is damaged \(it holds {wanted}.*\); index the videos again"):
        module.Index(index.folder, encoder, store.Manifest.read(index.folder))


@pytest.mark.parametrize(
    "change",
    [
        lambda clips: clips._replace(start=clips.start.astype(str)),
        lambda clips: clips._replace(times=clips.times[:, 0]),
        lambda clips: clips._replace(source=clips.source.astype(float)),
    ],
)
def test_columns_of_another_kind_are_damage(index, videos, change):
    index.add(videos)
    (segment,) = index.catalogue.segments
    np.savez(segment.folder / "clips.npz", **change(segment.clips)._asdict())
    with pytest.raises(SearchError, match="its columns do not fit together"):
        store.read_segment(segment.folder)


def test_clips_of_files_that_a_segment_does_not_have_are_damage(index, encoder, videos):
    index.add(videos)
    (segment,) = index.catalogue.segments
    for number in (-1, len(segment.files)):
        source = segment.clips.source.copy()
        source[0] = number
        np.savez(segment.folder / "clips.npz", **segment.clips._replace(source=source)._asdict())
        with pytest.raises(SearchError, match="its columns do not fit together"):
            store.read_segment(segment.folder)


def test_an_index_can_change_while_it_is_opened(index, encoder, videos, monkeypatch):
    """A writer replaces segments and removes the old ones while another process opens the model."""
    index.add(videos)

    def opened(checkpoint, settings):
        victim = next(videos.rglob("long.mp4"))
        if victim.stat().st_mtime_ns != 1:
            os.utime(victim, ns=(1, 1))
            monkeypatch.setattr("hbi_jax.search.catalogue._DROPPED_SHARE", 0.0)
            index.add(videos)
        return encoder

    monkeypatch.setattr(module, "open_encoder", opened)
    with open_index(index.folder) as other:
        assert [moment[:4] for moment in other.search(TEXT)] == [moment[:4] for moment in index.search(TEXT)]


def test_segments_can_be_replaced_while_they_are_opened(index, encoder, videos, monkeypatch):
    index.add(videos)
    read = store.Manifest.read
    stale = store.Manifest(encoder.digest, encoder.path, read(index.folder).settings, {"0" * 32: []})
    answers = iter([stale])
    monkeypatch.setattr(store.Manifest, "read", lambda folder: next(answers, None) or read(folder))
    with module._opened(index.folder, encoder) as other:
        assert other.num_clips == index.num_clips
    monkeypatch.setattr(store.Manifest, "read", lambda folder: stale)
    with pytest.raises(SearchError, match="is damaged"):
        module._opened(index.folder, encoder)


def test_what_is_below_a_folder_that_cannot_be_listed_stays(index, videos, monkeypatch):
    index.add(videos)
    walk, closed = os.scandir, str(videos / "deep")

    def scandir(path="."):
        if os.fspath(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), closed)
        return walk(path)

    monkeypatch.setattr(os, "scandir", scandir)
    done = index.add(videos)
    assert (done.dropped, done.files, done.clips) == (0, 5, 9)
    assert done.unreadable == {closed: f"{closed}: Permission denied"}


@pytest.mark.parametrize("lock", [store.writing, store.committing])
def test_a_file_system_without_locks_is_named(index, monkeypatch, lock):
    def flock(file, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(store.fcntl, "flock", flock)
    wanted = r"on a file system without locks \(Function not implemented\)"
    with pytest.raises(SearchError, match=wanted), lock(index.folder):
        pytest.fail("locked")


def test_an_index_can_be_moved(index, encoder, videos, tmp_path):
    index.add(videos)
    wanted = index.search(TEXT)
    place = tmp_path / "elsewhere" / "moved"
    shutil.move(index.folder, place)
    with module.Index(place, encoder, store.Manifest.read(place)) as moved:
        assert [moment[:4] for moment in moved.search(TEXT)] == [moment[:4] for moment in wanted]


def test_a_writer_that_dies_leaves_an_index_that_works(index, encoder, videos):
    """Killed in the middle of a segment: what it left is removed by the next writer."""
    index.add(videos)
    code = f"""
import os, signal, pathlib, numpy as np
from hbi_jax.search import store
folder = pathlib.Path({str(index.folder)!r})
save = np.save
def dies(*arguments, **options):
    save(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
store.np.save = dies
table = store.ClipTable(np.zeros(1, int), np.zeros(1), np.ones(1), np.zeros((1, 5)))
with store.writing(folder):
    store.write_segment(folder, "name", [store.File("a.mp4", store.Stamp(1, 2))], table, {{"a": np.zeros((1, 2))}})
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert done.returncode == -signal.SIGKILL
    assert list((index.folder / "segments").glob(".unfinished-*"))
    assert index.add(videos).unchanged == 5
    assert not list((index.folder / "segments").glob(".unfinished-*"))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real clips lie beside the checkout")
def test_real_clips(index):
    """Camera and film."""
    done = index.add(REAL)
    assert done.files >= 3
    assert done.unreadable == {}
    assert {moment.end - moment.start > 1 for moment in index.search("a cartoon rabbit")} == {True}
