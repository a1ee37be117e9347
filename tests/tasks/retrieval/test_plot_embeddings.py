"""The picture of tokens as points: near tokens are near points, padding is left out, and pairs have colours."""

import numpy as np
import pytest

from hbi_jax.tasks.retrieval.plot_embeddings import embeddings_figure, plot_embeddings
from hbi_jax.tasks.retrieval.projection import Embedded, project

PAIRS, WORDS, FRAMES, WIDTH = 4, 7, 5, 16


def embedded(name="after", spread=0.05, pairs=PAIRS):
    """Tokens around a direction of their pair, of any length; padding points anywhere."""
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(pairs, 1, WIDTH))
    words, frames = (
        (centre + spread * rng.normal(size=(pairs, count, WIDTH))) * rng.uniform(0.1, 10, (pairs, count, 1))
        for count in (WORDS, FRAMES)
    )
    word_mask = np.arange(WORDS)[None] < rng.integers(3, WORDS, (pairs, 1))
    words[~word_mask] = np.nan
    return Embedded(name, words, word_mask, frames, np.ones((pairs, FRAMES), bool))


def test_tokens_of_a_pair_are_neighbours():
    """Of both sides: the nearest point of every token is of its own pair."""
    tokens = embedded()
    words, frames = project(tokens)
    assert [len(part) for part in words] == tokens.word_mask.sum(1).tolist()
    assert [len(part) for part in frames] == [FRAMES] * PAIRS
    points = np.concatenate([*words, *frames])
    pair = np.concatenate([np.full(len(part), row) for side in (words, frames) for row, part in enumerate(side)])
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.diag(np.full(len(points), np.inf))
    assert np.isfinite(points).all()
    np.testing.assert_array_equal(pair[distance.argmin(1)], pair)


def test_every_set_has_a_panel_and_every_pair_a_colour(tmp_path):
    stages = [embedded("before $x$", spread=5.0), embedded("after")]
    figure = embeddings_figure(stages, "entity level, $title")
    assert [axes.get_title() for axes in figure.axes] == ["before $x$", "after"]
    for axes, stage in zip(figure.axes, stages, strict=True):
        drawn = [len(part.get_offsets()) for part in axes.collections]
        assert drawn == [count for words in stage.word_mask.sum(1) for count in (words, FRAMES)]
        colours = [tuple(part.get_edgecolor()[0]) for part in axes.collections]
        assert colours[::2] == colours[1::2]
        assert len(set(colours)) == PAIRS
    plot_embeddings(stages, tmp_path / "new" / "embeddings.png", "title")
    assert (tmp_path / "new" / "embeddings.png").stat().st_size > 5000


def test_the_same_tokens_give_the_same_picture():
    first, second = (np.concatenate(project(embedded())[0]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_tokens_of_a_diverged_model_are_drawn():
    tokens = embedded()
    half = tokens._replace(frames=np.full_like(tokens.frames, np.nan))
    assert np.isfinite(np.concatenate(project(half)[0])).all()


@pytest.mark.parametrize("value", [np.nan, 1.0])
def test_tokens_that_do_not_differ_are_one_point(value):
    tokens = embedded()
    same = tokens._replace(words=np.full_like(tokens.words, value), frames=np.full_like(tokens.frames, value))
    words, frames = project(same)
    np.testing.assert_array_equal(np.concatenate([*words, *frames]), 0)


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(ValueError, match=r"stages: got sets of \[\] pairs"):
        embeddings_figure([], "title")
    with pytest.raises(ValueError, match=r"stages: got sets of \[2, 4\] pairs, wanted one number"):
        embeddings_figure([embedded(), embedded(pairs=2)], "title")
    with pytest.raises(ValueError, match=r"stages: got sets of \[21\] pairs, wanted .* 1 to 20"):
        embeddings_figure([embedded(pairs=21)], "title")


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_tokens_for_a_projection_are_at_the_origin(count):
    tokens, place = embedded(pairs=1), np.arange(WORDS)[None]
    few = tokens._replace(word_mask=place < count, frame_mask=place[:, :FRAMES] < count)
    words, frames = project(few)
    np.testing.assert_array_equal(np.concatenate([*words, *frames]), np.zeros((2 * count, 2)))
