"""The LanceDB engine: the same moments as the exact scan, whatever is added, changed and dropped."""

import importlib.util
import pathlib
import shutil

import numpy as np
import pytest

from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.search import catalogue, pages, scan, store
from hbi_jax.search import index as module
from hbi_jax.search.config import SearchError
from hbi_jax.search.lance import LanceEngine
from tests.logs import told
from tests.search.conftest import make_index

needs_lance = pytest.mark.skipif(not importlib.util.find_spec("lancedb"), reason="the extra `search` is not installed")
TEXT = "a red square slides left"


@needs_lance
def test_moments_are_those_of_the_scan(encoder, videos, tmp_path):
    with (
        make_index(tmp_path / "flat", encoder) as flat,
        make_index(tmp_path / "lance", encoder, engine="lance") as index,
    ):
        for change in (lambda: None, lambda: next(videos.rglob("long.mp4")).unlink()):
            change()
            assert index.add(videos).clips == flat.add(videos).clips
            assert index.catalogue.engine._table.count_rows() == flat.num_clips
            _same(index.search(TEXT), flat.search(TEXT))
            video = min(videos.rglob("video*.mp4"))
            _same(index.search_like(video), flat.search_like(video))
            for most in (10**11, 10**30):
                _same(index.search(TEXT, top=most), flat.search(TEXT, top=most))
        with module.Index(index.folder, encoder, store.Manifest.read(index.folder)) as opened:
            _same(opened.search(TEXT), flat.search(TEXT))
        moved = shutil.move(min(videos.rglob("video*.mp4")), videos / "moved.mp4")
        assert index.add(videos).added == 1
        assert str(moved) in {moment.video for moment in index.search(TEXT)}
        assert len(index.search(TEXT)) == 4


def _same(found, wanted):
    assert [moment[:3] for moment in found] == [moment[:3] for moment in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.score, other.score, atol=1e-6)
        np.testing.assert_allclose(one.interaction, other.interaction, atol=1e-6)


@needs_lance
@pytest.mark.parametrize("written", ["manifest", "state"])
def test_an_interrupted_change_hides_nothing(encoder, videos, tmp_path, monkeypatch, caplog, written):
    """A writer is killed while segments are merged, before it writes the manifest, or even the state of the table."""
    make = {"encoder": encoder}
    with make_index(tmp_path / "flat", **make) as flat, make_index(tmp_path / "lance", engine="lance", **make) as index:
        flat.add(videos)
        index.add(videos)
        next(videos.rglob("long.mp4")).unlink()
        monkeypatch.setattr(catalogue, "_DROPPED_SHARE", 0.0)

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            write_state, states = LanceEngine._write_state, []

            def at_the_end(self, state):
                states.append(state)
                # The deletion writes the state twice, and then the merge does.
                if written == "state" and len(states) == 4:
                    killed()
                write_state(self, state)

            patch.setattr(LanceEngine, "_write_state", at_the_end)
            if written == "manifest":
                merge = catalogue.Catalogue._merge

                def merging(self):
                    patch.setattr(store.Manifest, "write", killed)
                    merge(self)

                patch.setattr(catalogue.Catalogue, "_merge", merging)
            with pytest.raises(KeyboardInterrupt):
                index.add(videos)
        flat.add(videos)
        with module.Index(index.folder, encoder, store.Manifest.read(index.folder)) as opened:
            assert "lacks 1 of 1 segments" in caplog.text
            _same(opened.search(TEXT), flat.search(TEXT))
            assert opened.add(videos).added == 0
            _same(opened.search(TEXT), flat.search(TEXT))
        caplog.clear()
        with module.Index(index.folder, encoder, store.Manifest.read(index.folder)) as opened:
            assert not told(caplog)
            assert opened.catalogue.engine._table.count_rows() == flat.num_clips
            _same(opened.search(TEXT), flat.search(TEXT))


@needs_lance
@pytest.mark.parametrize("content", ["", "[]", "no JSON"])
def test_a_damaged_state_hides_nothing(encoder, videos, tmp_path, caplog, content):
    with make_index(tmp_path / "lance", encoder, engine="lance") as index:
        index.add(videos)
        wanted = index.search(TEXT)
        (index.folder / "lance" / "state.json").write_text(content)
        with module.Index(index.folder, encoder, store.Manifest.read(index.folder)) as opened:
            assert "lacks 1 of 1 segments" in caplog.text
            _same(opened.search(TEXT), wanted)
            opened.add(videos)
            assert opened.catalogue.engine._table.count_rows() == index.num_clips
            _same(opened.search(TEXT), wanted)


@needs_lance
def test_an_index_without_a_clip_lacks_nothing(encoder, tmp_path, caplog):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    with make_index(tmp_path / "lance", encoder, engine="lance") as index:
        assert index.add(tmp_path / "videos").clips == 0
        assert index.search(TEXT) == []
    assert "lacks" not in caplog.text


@needs_lance
def test_pages_are_given_back(encoder, videos, tmp_path, monkeypatch):
    with (
        make_index(tmp_path / "flat", encoder) as flat,
        make_index(tmp_path / "lance", encoder, engine="lance") as index,
    ):
        wanted = []
        for each in (flat, index):
            each.add(videos)
            wanted.append(each.search(TEXT))
        monkeypatch.setattr(pages, "KEPT_BYTES", 0)
        for each, moments in zip((flat, index), wanted, strict=True):
            _same(each.search(TEXT), moments)
            each.catalogue.engine.candidates(each.encoder.query(each.encoder.texts([TEXT])), 3)
            assert _resident(each.folder) == 0


def _resident(folder) -> int:
    """Returns how many kB of an index's files are mapped by this process, in its page table."""
    mapped, total = False, 0
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            mapped = str(folder / store.SEGMENTS) in line
        elif mapped and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


@needs_lance
def test_an_index_finds_most_of_the_best(tmp_path, encoder):
    """With the approximate index, over many clips; the tokens of a clip are alike, at both levels."""
    rng = np.random.default_rng(0)
    count, shapes = 2000, encoder.row_shapes()
    arrays = {name: rng.normal(size=(count, *shape)).astype(np.float32) for name, shape in shapes.items()}
    subject = rng.normal(size=(count, 1, shapes["entity.features"][1])).astype(np.float32)
    for level in ("entity", "action"):
        arrays[f"{level}.features"] += 2 * subject
        arrays[f"{level}.mask"] = np.ones((count, *shapes[f"{level}.mask"]), bool)
        arrays[f"{level}.scale"] = 1 / np.linalg.norm(arrays[f"{level}.features"], axis=-1)
        arrays[f"{level}.weight"] = np.full_like(arrays[f"{level}.scale"], 1 / shapes[f"{level}.scale"][0])
    table = store.ClipTable(
        np.zeros(count, np.int32),
        np.zeros(count),
        np.ones(count),
        np.zeros((count, *shapes["entity.mask"]), np.float32),
    )
    with store.writing(tmp_path):
        segment = store.write_segment(tmp_path, "0" * 32, [store.File("a.mp4", store.Stamp(1, 2))], table, arrays)
    engine = LanceEngine(tmp_path, encoder.scored, encoder.mesh, indexed_from=1000)
    engine.add([segment], writing=True)
    assert {index.columns[0] for index in engine._table.list_indices()} == {"vector"}
    query = encoder.query(encoder.texts([TEXT]))
    places, scores = engine.candidates(query, 10)
    clips = scan.sides(arrays, encoder.scored)
    wanted = scan.scan_blocks(query, scan.blocks(clips))
    np.testing.assert_allclose(scores, wanted[places.row], atol=1e-6)
    assert (np.diff(scores) <= 0).all()
    # Of 500 clips that are scored, 2.5 of the ten best would be found by chance. The index is not deterministic.
    assert len(set(scan.top(wanted, 10).tolist()) & set(places.row.tolist())) >= 6
    rows = engine.fetch(module.Places(places.segment[:5], places.row[:5]))
    for name, array in arrays.items():
        np.testing.assert_array_equal(rows[name], array[places.row[:5]], err_msg=name)
    engine.close()


def test_without_lancedb_the_remedy_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lancedb", None)
    with pytest.raises(
        SearchError, match=r"engine='lance': wanted LanceDB .*; pip install 'hbi_jax\[search\]', or use"
    ):
        LanceEngine(tmp_path, ["entity"], make_mesh())
