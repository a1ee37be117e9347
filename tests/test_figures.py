"""The documents show what the benchmarks measured."""

import pathlib

import pytest

from benchmarks.tables import DOCUMENTS, FIGURES, updated

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_figures_in_the_documents_are_those_of_the_json(name):
    text = (ROOT / name).read_text()
    assert updated(text) == text, "run `python -m benchmarks.tables --write`"


def test_every_figure_is_shown_somewhere():
    texts = [(ROOT / name).read_text() for name in DOCUMENTS]
    for figure in FIGURES:
        assert any(f"<!-- figures:{figure} -->" in text for text in texts), figure


def test_a_stale_figure_is_found():
    text = "<!-- figures:interaction -->\nold\n<!-- /figures -->"
    assert FIGURES["interaction"]() in updated(text)
    assert "old" not in updated(text)
