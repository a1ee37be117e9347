"""A gallery with several captions a video: each video is seen once, every caption is a query."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.data import shapes
from hbi_jax.data.datasets import DataError, load_split
from hbi_jax.data.pipeline import train_batches
from hbi_jax.data.source import FILLING, Source
from hbi_jax.data.text import Tokenizer
from hbi_jax.models.hbi import HBI
from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.tasks.gallery import Gallery, GalleryEncoder, compiled, equal_blocks
from hbi_jax.tasks.retrieval import evaluator as evaluation
from hbi_jax.tasks.retrieval.evaluator import RetrievalEvaluator
from hbi_jax.tasks.retrieval.metrics import gallery_metrics
from hbi_jax.types import Batch
from tests.tiny_hbi import CLIP, CONFIG, FRAMES, SIDE, WORDS, make_batch, random_params


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """The test split of a small world as MSVD: five captions of each of six videos, one of them unreadable."""
    folder = tmp_path_factory.mktemp("several")
    world = shapes.WorldConfig(num_train=0, num_val=0, num_test=6, num_twin_groups=0, num_frames=16)
    shapes.generate(folder / "world", world, num_workers=1, show_progress=False)
    shapes.export(folder / "world", folder / "msvd", "msvd")
    split = load_split("msvd", "test", annotations=folder / "msvd", videos=folder / "msvd" / "videos")
    split.records[0].path.write_bytes(b"")
    return split


def test_each_video_is_encoded_once_and_every_caption_is_a_query(gallery, monkeypatch):
    config = dataclasses.replace(CONFIG, clip=dataclasses.replace(CLIP, vocab_size=49408))
    model = HBI(config)
    params = random_params(model, jax.tree.map(jnp.asarray, make_batch(2)))
    evaluator = RetrievalEvaluator(
        model, make_mesh(), batch_size=8, video_block=8, level_rates={"entity": 1.0, "action": 0.5}
    )
    source = Source(gallery, Tokenizer(WORDS), SIDE, FRAMES, frames_per_second=4.0, max_unreadable_rate=0.2)
    asked, video_rows = [], Source.video_rows

    def counted(self, index, *arguments):
        asked.extend(index[index != FILLING].tolist())
        return video_rows(self, index, *arguments)

    monkeypatch.setattr(Source, "video_rows", counted)
    encoded = evaluator.encoder.encode(params, source)
    assert sorted(asked) == list(range(6))
    assert list(source.unreadable) == ["video0"]
    # The captions of the unreadable video are left out with it.
    np.testing.assert_array_equal(encoded.text_to_video, np.repeat(np.arange(5), 5))
    np.testing.assert_array_equal(encoded.record_index, np.arange(5, 30))

    similarity = evaluator.similarity(params, encoded)
    assert similarity.shape == (25, 5)
    metrics = gallery_metrics(similarity, encoded)
    texts = [1 + sum(row[video] >= row[text // 5] for video in range(5) if video != text // 5)
             for text, row in enumerate(similarity)]  # fmt: skip
    best = similarity.reshape(5, 5, 5).max(axis=1)  # of the captions of a video (row), with every video
    videos = [1 + sum(best[other, video] >= best[video, video] for other in range(5) if other != video)
              for video in range(5)]  # fmt: skip
    assert metrics["t2v"]["MnR"] == pytest.approx(np.mean(texts))
    assert metrics["v2t"]["MnR"] == pytest.approx(np.mean(videos))
    assert metrics["t2v"]["R@1"] == pytest.approx(100 * np.mean(np.equal(texts, 1)))
    assert metrics["v2t"]["R@1"] == pytest.approx(100 * np.mean(np.equal(videos, 1)))
    assert jax.tree.all(jax.tree.map(np.isfinite, metrics))


def test_a_gallery_without_a_readable_video_is_named(gallery):
    config = dataclasses.replace(CONFIG, clip=dataclasses.replace(CLIP, vocab_size=49408))
    model = HBI(config)
    gone = tuple(record for record in gallery.records if record.path == gallery.records[0].path)
    split = dataclasses.replace(gallery, records=gone)
    source = Source(split, Tokenizer(WORDS), SIDE, FRAMES, frames_per_second=4.0, max_unreadable_rate=1.0)
    encoder = GalleryEncoder(model, make_mesh(), 8)
    with pytest.raises(DataError, match=r"split 'test': got 1 videos, none of which can be read"):
        encoder.encode(random_params(model, jax.tree.map(jnp.asarray, make_batch(2))), source)


@pytest.mark.parametrize("reconstruction", [False, True], ids=["HBI", "HBI V2"])
def test_blocks_of_a_gallery_score_like_all_of_it_and_prepare_each_side_once(reconstruction, monkeypatch):
    monkeypatch.setattr(evaluation, "_COLUMNS", 4)
    model = HBI(dataclasses.replace(CONFIG, reconstruction=reconstruction))
    batch, rates = jax.tree.map(jnp.asarray, make_batch(11)), {"entity": 1.0, "action": 0.5}
    params = random_params(model, batch)

    @jax.jit
    def whole(params):
        text = model.apply(params, batch.token_ids, batch.text_mask, method="encode_text")
        video = model.apply(params, batch.frames, batch.frame_mask, method="encode_video")
        return text, video, model.apply(params, text, video, rates, method="gallery_similarity")

    text, video, wanted = whole(params)
    evaluator = RetrievalEvaluator(model, make_mesh(), batch_size=8, video_block=3, level_rates=rates)
    assert (evaluator.num_columns, evaluator.encoder.batch_size) == (8, 8)
    prepared = []

    def counted(name):
        function = getattr(evaluator, name)

        def prepare(*arguments):
            prepared.append(name)
            return function(*arguments)

        return prepare

    for name in ("_text_sides", "_video_sides"):
        monkeypatch.setattr(evaluator, name, counted(name))
    rows = np.arange(11)
    encoded = Gallery(*jax.tree.map(np.asarray, (text, video)), rows, rows, None)
    np.testing.assert_allclose(evaluator.similarity(params, encoded), wanted, atol=2e-6)
    assert sorted(prepared) == ["_text_sides"] * 2 + ["_video_sides"] * 2


@pytest.mark.parametrize(
    ("padding", "dtype"), [("masked", "float32"), ("published", "float32"), ("masked", "bfloat16")]
)
def test_features_that_were_computed_before_give_the_same_batches(gallery, padding, dtype):
    config = dataclasses.replace(CONFIG, clip=dataclasses.replace(CLIP, vocab_size=49408), padding=padding, dtype=dtype)
    model = HBI(config)
    params = random_params(model, jax.tree.map(jnp.asarray, make_batch(2)))
    plain, cached = (
        Source(gallery, Tokenizer(WORDS), SIDE, FRAMES, frames_per_second=4.0, max_unreadable_rate=0.2, cache_gib=0.1)
        for _ in range(2)
    )
    mesh = make_mesh(2, 1, jax.devices()[:2])
    cached.use_features(GalleryEncoder(model, mesh, 4).frame_features(params, cached))
    # Nothing reads the decoded clips any more.
    assert [cached.cache.get(video) for video in range(6)] == [None] * 6
    assert cached.features.features.shape == (6, FRAMES, 32)
    assert list(cached.unreadable) == ["video0"]
    assert not cached.features.mask[0].any()
    apply = jax.jit(model.apply)
    with train_batches(plain, 8, 0) as pixels, train_batches(cached, 8, 0) as features:
        for _, one, other in zip(range(3), pixels, features, strict=False):
            assert (one.frames.dtype, other.frames.dtype) == (np.uint8, np.float32)
            for name in Batch._fields:
                if name != "frames":
                    np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert not one.example_mask.all()
            got, wanted = (apply(params, batch)["action"] for batch in (other, one))
            rows = np.ix_(one.example_mask, one.example_mask)
            atol = 1e-5 if dtype == "float32" else 2e-2
            np.testing.assert_allclose(got.similarity[rows], wanted.similarity[rows], atol=atol)


def test_features_of_whole_grids_give_the_frames_of_every_segment(gallery):
    """Grids of 16 frames in parts of 5, the last of which is not full: two views, and the middle frames."""
    model = HBI(dataclasses.replace(CONFIG, clip=dataclasses.replace(CLIP, vocab_size=49408)))
    params = random_params(model, jax.tree.map(jnp.asarray, make_batch(2)))
    settings = {"frames_per_second": 8.0, "sampling": "segments", "max_unreadable_rate": 0.2}
    plain, cached = (Source(gallery, Tokenizer(WORDS), SIDE, FRAMES, **settings) for _ in range(2))
    cached.use_features(GalleryEncoder(model, make_mesh(2, 1, jax.devices()[:2]), 4).frame_features(params, cached))
    assert cached.features.features.shape == (6, 4 * FRAMES, 32)
    assert cached.features.mask.sum(1).tolist() == [0, *[16] * 5]
    assert list(cached.unreadable) == ["video0"]
    encode = jax.jit(functools.partial(model.apply, method="frame_features"))

    def check(pixels, pixel_mask, features, feature_mask):
        assert (pixels.dtype, features.dtype) == (np.uint8, np.float32)
        np.testing.assert_array_equal(pixel_mask, feature_mask)
        wanted = np.asarray(encode(params, jnp.asarray(pixels), jnp.asarray(pixel_mask)))
        np.testing.assert_allclose(features[pixel_mask], wanted[pixel_mask], atol=1e-5)

    with train_batches(plain, 8, 0, num_views=2) as pixels, train_batches(cached, 8, 0, num_views=2) as features:
        for _, one, other in zip(range(2), pixels, features, strict=False):
            np.testing.assert_array_equal(one.example_mask, other.example_mask)
            check(one.frames, one.frame_mask, other.frames, other.frame_mask)
            check(one.second_frames, one.second_mask, other.second_frames, other.second_mask)
    index = np.asarray([1, FILLING, 0, 3], np.int32)
    (*one, readable), (*other, same) = (source.video_rows(index) for source in (plain, cached))
    check(*one, *other)
    assert readable.tolist() == same.tolist() == [True, False, False, True]


def test_a_model_that_is_opened_again_is_not_compiled_again():
    other = dataclasses.replace(CONFIG, padding="published")
    functions = [compiled(HBI(config), "encode_text", make_mesh()) for config in (CONFIG, CONFIG, other)]
    assert functions[0] is functions[1] is not functions[2]
    assert compiled(HBI(CONFIG), "encode_text", make_mesh(2, 1, jax.devices()[:2])) is not functions[0]


@pytest.mark.parametrize(
    ("count", "wanted"), [(0, []), (2, [[0, 1, 1]]), (3, [[0, 1, 2]]), (4, [[0, 1, 2], [3, 3, 3]])]
)
def test_blocks_have_one_shape(count, wanted):
    assert [block.tolist() for block in equal_blocks(count, 3)] == wanted
