"""The scan equals the similarity of the models, for any padding, levels, blocks and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.models.similarity import wti
from hbi_jax.parallel.mesh import batch_sharding, make_mesh
from hbi_jax.search import scan
from hbi_jax.types import WeightedTokens


def tokens(rows: int, most: int, seed: int, features: int = 16) -> WeightedTokens:
    rng = np.random.default_rng(seed)
    mask = np.arange(most) < rng.integers(1, most + 1, (rows, 1))
    values = rng.normal(size=(rows, most, features)).astype(np.float32)
    return WeightedTokens(values, mask, rng.normal(size=(rows, most)).astype(np.float32))


TEXT = {"entity": tokens(3, 7, 0), "event": tokens(3, 2, 1)}
VIDEO = {"entity": tokens(50, 5, 2), "event": tokens(50, 2, 3)}
RATES = {"entity": 1.0, "action": 0.0, "event": 0.25}


def expected(padding: str) -> np.ndarray:
    parts = [RATES[name] * wti(*jax.tree.map(jnp.asarray, (TEXT[name], VIDEO[name])), padding=padding) for name in TEXT]
    return np.asarray(sum(parts))


def queries(published: bool) -> list[scan.Query]:
    rows = ({name: WeightedTokens(*(x[[row]] for x in side)) for name, side in TEXT.items()} for row in range(3))
    return [scan.query(levels, RATES, published) for levels in rows]


@pytest.mark.parametrize("padding", ["masked", "published"])
def test_the_scan_equals_wti(padding, monkeypatch):
    monkeypatch.setattr(scan, "BLOCK", 16)
    published = padding == "published"
    clips = {name: scan.side(side, published) for name, side in VIDEO.items()}
    for query, wanted in zip(queries(published), expected(padding), strict=True):
        assert set(query.words) == {"entity", "event"}
        np.testing.assert_allclose(scan.scan_blocks(query, scan.blocks(clips)), wanted, atol=3e-7)
        np.testing.assert_allclose(scan.scan(query, clips), wanted, atol=3e-7)
        assert {len(words) % 16 for words in scan.padded(query).words.values()} == {0}


def test_files_are_read_in_place_and_the_last_block_is_filled_up(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "BLOCK", 32)
    stored = {}
    for name, side in VIDEO.items():
        for part, array in scan.side(side)._asdict().items():
            np.save(tmp_path / f"{name}.{part}.npy", array)
            stored[f"{name}.{part}"] = np.load(tmp_path / f"{name}.{part}.npy", mmap_mode="r")
    clips = scan.sides(stored, ["entity", "event"])
    blocks = list(scan.blocks(clips))
    assert [block.count for block in blocks] == [32, 18]
    assert [len(block.clips["entity"].scale) for block in blocks] == [32, 32]
    assert blocks[0].clips["entity"].features.unsafe_buffer_pointer() == clips["entity"].features.ctypes.data
    np.testing.assert_allclose(scan.scan_blocks(queries(False)[1], blocks), expected("masked")[1], atol=3e-7)


def test_devices_share_the_clips():
    clips = {name: scan.side(side) for name, side in VIDEO.items()}
    mesh = make_mesh(devices=jax.devices()[:2])
    placed = jax.device_put(clips, batch_sharding(mesh))
    found = scan.scan(queries(False)[0], placed)
    assert len(found.sharding.device_set) == 2
    np.testing.assert_allclose(found, expected("masked")[0], atol=3e-7)


def test_padding_tokens_have_no_weight_and_change_no_maximum():
    side = scan.side(VIDEO["entity"])
    mask = VIDEO["entity"].mask
    assert (side.weight[~mask] == 0).all()
    np.testing.assert_allclose(side.weight.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(side.features, axis=-1) * side.scale, 1, rtol=1e-5)


def test_the_best_come_first_and_ties_are_ordered_by_number():
    scores = np.array([0.1, 0.7, 0.3, 0.7, -np.inf, 0.3], np.float32)
    assert scan.top(scores, 3).tolist() == [1, 3, 2]
    assert scan.top(scores, 9).tolist() == [1, 3, 2, 5, 0, 4]
