"""Games with patches: exact, between the right frame and the right words, and a table of them in the report."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax import banzhaf, experiment
from hbi_jax.fields import ConfigError
from hbi_jax.models.similarity import normalize
from hbi_jax.tasks.retrieval import patches, regions
from hbi_jax.tasks.retrieval.games import INTERACTION, SIMILARITY
from hbi_jax.tasks.retrieval.plot_patches import PatchGrid
from tests.tiny_run import tiny_config

SIDE = 4  # patches along a side of the tiny frames


@pytest.fixture(scope="module")
def setup(world, finished, tmp_path_factory):
    changes = {"eval__baselines": False, "eval__num_pictures": 1, "eval__patch_texts": 3}
    made = experiment.prepare(tiny_config(world, **changes), str(tmp_path_factory.mktemp("patches")))
    return made.task, experiment.restore_params(made, str(finished))[0]


def test_the_game_is_that_of_the_words_with_the_patches_of_the_chosen_frame(setup):
    task, params = setup
    source = task.source("test")
    gallery = task.evaluator.encoder.encode(params, source)
    known = regions.of_world(task._truths, task._sample)
    rows = np.array([0, 5])
    games = patches.play_patches(task.evaluator, params, gallery, rows, known, "entity", source, task.dataset.tokenizer)
    records = [source.split.records[row] for row in gallery.record_index[rows]]
    asked = [(row, region) for row, record in enumerate(records) for region in known[record.video_id, record.text]]
    assert len(games) == len(asked) >= 2
    encode = jax.jit(functools.partial(task.model.apply, method="encode_patches"))
    for played, (row, region) in zip(games, asked, strict=True):
        assert played.region is region
        clips, _, _ = source.video_rows(source.split.video_index[gallery.record_index[rows]])
        frame = clips[row, region.frame]
        np.testing.assert_array_equal(played.frame, frame)
        video = encode(params, jnp.asarray(frame[None])).levels["entity"]
        text = gallery.text.levels["entity"]
        words, mask, logits = (part[rows[row]] for part in text)
        similarity = normalize(jnp.asarray(words[mask])) @ normalize(video.features[0]).T
        wanted = banzhaf.interaction(similarity, jnp.asarray(logits[mask]), video.logits[0])
        assert played.game.values[INTERACTION].shape == (len(played.game.tokens), SIDE * SIDE)
        # The start token plays, and is not shown.
        np.testing.assert_allclose(played.game.values[SIMILARITY], similarity[1:], atol=1e-5)
        np.testing.assert_allclose(played.game.values[INTERACTION], wanted[1:], atol=1e-5)


def test_the_report_has_a_table_and_a_picture_of_pointing_in_space(setup, monkeypatch):
    task, params = setup
    drawn = []
    monkeypatch.setattr("hbi_jax.tasks.retrieval.pictures.plot_patches", lambda *args: drawn.append(args))
    results = task.evaluate(params, "x")
    found = {table.name: table for table in results.tables if "in space" in table.name}
    assert list(found) == ["pointing in space, gallery 'test'", "pointing in space, gallery 'twins'"]
    for table in found.values():
        assert table.headline
        assert "patches" in table.columns[0].note
        rows = {row.method: row.values for row in table.rows}
        assert {name.split(": ")[0] for name in rows} == {"interaction", "similarity"}
        mass, low, high, uniform, auc, count = rows["interaction: all words"]
        assert low <= mass <= high
        assert 100 / SIDE**2 <= uniform < 100
        assert 0 <= auc <= 1
        assert count >= 3
    # The first text of the first gallery is drawn, with its words that refer to something, token by token added up.
    ((grids, path, title),) = drawn
    assert path == task.workdir / "pictures" / path.name
    assert any(str(path) == picture.path and title in picture.caption for picture in results.pictures)
    for grid in grids:
        assert isinstance(grid, PatchGrid)
        assert set(grid.words) <= set(title.replace(",", "").split()) - {"a", "then", "and"}
        assert grid.interaction.shape == (len(grid.words), SIDE**2)


def test_nothing_is_played_where_no_text_is_asked_for_or_known(setup, monkeypatch):
    task, params = setup
    monkeypatch.setattr(patches, "play", lambda *_: pytest.fail("a game was played"))
    gallery = task.evaluator.encoder.encode(params, task.source("test"))
    for change in ({"eval__patch_texts": 0}, {"data__render": ""}):
        monkeypatch.setattr(task, "config", task.config.replace(**change))
        task.__dict__.pop("_regions", None)
        assert task._patches(params, gallery, task.source("test"), np.array([0])) == []
        monkeypatch.undo()


def test_a_wrong_number_of_texts_is_named(world):
    with pytest.raises(ConfigError, match=r"config.eval.patch_texts=-1: wanted 0 or more; raise it"):
        tiny_config(world, eval__patch_texts=-1)
