"""The table of an ablation as Markdown and JSON: spreads, what is missing, what failed."""

import dataclasses
import json
import statistics

import pytest

from hbi_jax.ablations.results import Ablation, Line, spread, summary

TABLE = Ablation(
    title="Parts",
    note="What they are.",
    command="python -m hbi_jax.ablate",
    seeds=[0, 1, 2],
    lines=[
        Line("a|b", {"loss.interaction_weight": 0.0}, 46.6, {"0": {"R@1": 1.0, "MnR": 4.0}, "2": {"R@1": 4.0}}, {}),
        Line("c", {}, None, {"0": {"R@1": 2.5, "MnR": 3.0}}, {"1": "failed with exit code 1, see log.txt"}),
        Line("d", {}, None, {}, {}),
    ],
    chance={"R@1": 0.5},
    data="Test",
    budget="6 steps",
    machine="1 x cpu",
)


def rows():
    lines = [line for line in TABLE.markdown().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_row_has_means_with_their_spread_the_papers_figure_and_dashes():
    header, rule, *body = rows()
    assert header == ["model", "seeds", "R@1", "MnR", "the paper's R@1 on MSR-VTT"]
    assert len(rule) == len(header)
    assert body == [
        # A figure that not all runs have has no mean; a line does not end a cell.
        ["a/b", "2", "2.5 (1.0 to 4.0)", "-", "46.6"],
        ["c", "1", "2.5", "3.0", "-"],
        ["d", "0", "-", "-", "-"],
        ["chance", "", "0.5", "-", ""],
    ]


def test_what_is_missing_is_said():
    text = TABLE.markdown()
    assert text.startswith("What they are.\n\n| model")
    assert "Test; 6 steps; 3 seeds, mean (smallest to largest); 1 x cpu." in text
    assert "**Unfinished: 3 of 9 runs.** c, seed 1: failed with exit code 1, see log.txt." in text


def test_a_finished_table_of_one_seed_has_no_spread():
    text = dataclasses.replace(TABLE, seeds=[0], lines=TABLE.lines[1:2]).markdown()
    assert "Unfinished" not in text
    assert "; 1 seed; " in text
    assert "the paper" not in text


def test_the_json_holds_everything_and_is_read_again():
    text = TABLE.to_json()
    assert json.loads(text)["lines"][0]["summary"] == {
        "R@1": {"mean": 2.5, "min": 1.0, "max": 4.0, "standard_error": 1.5}
    }
    assert Ablation.from_json(text) == TABLE


def test_the_standard_error_is_that_of_the_mean():
    values = [10.0, 11.0, 15.0, 12.0]
    found = summary([{"x": value} for value in values])["x"]
    assert found["standard_error"] == pytest.approx(statistics.stdev(values) / 2, abs=0.005)
    assert summary([]) == {}


def test_equal_values_have_no_spread():
    assert spread({"mean": 3.0, "min": 3.0, "max": 3.0}) == "3.0"
    assert spread({"mean": 3.0, "min": 2.0, "max": 4.0}) == "3.0 (2.0 to 4.0)"
