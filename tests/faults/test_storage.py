"""Storage that fails: a clear message each time, and the last good state is kept."""

import pytest

from tests.faults import storage

pytestmark = pytest.mark.slow


def test_damage_of_any_file_costs_one_checkpoint_at_most(tmp_path):
    outcomes = list(storage.damage(tmp_path))
    assert len(outcomes) > 35
    ends = {outcome.case: outcome.end for outcome in outcomes}
    assert ends["params is deleted"] == ends["opt_state is deleted"] == "previous"
    for outcome in outcomes:
        assert outcome.end in ("unharmed", "previous")
        assert outcome.end == "unharmed" or "checkpoint" in outcome.message, outcome


def test_a_save_that_fails_leaves_the_state_before_it(tmp_path):
    outcomes = list(storage.failing_saves(tmp_path))
    assert len(outcomes) >= 5
    assert any(outcome.end == "refused" for outcome in outcomes)
    for outcome in outcomes:
        assert outcome.end in ("unharmed", "refused"), outcome
        assert outcome.end == "unharmed" or "could not save a checkpoint" in outcome.message, outcome
