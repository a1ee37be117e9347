"""Agreement of interactions, by hand."""

import numpy as np
import pytest

from hbi_jax.tasks.estimator.metrics import agreement

EXACT = np.array([[[1.0, 3.0, 9.0], [2.0, 2.0, 9.0], [9.0, 9.0, 9.0]]])
TEXT, VIDEO = np.array([[True, True, False]]), np.array([[True, True, False]])


def test_only_real_cells_count():
    estimate = EXACT.copy()
    estimate[0, 2], estimate[0, :, 2] = -70.0, 50.0
    found = agreement(estimate, EXACT, TEXT, VIDEO)
    assert found.rmse == 0
    assert found.correlation == pytest.approx(1)
    assert found.top1 == 100


def test_by_hand():
    """Errors 1, 1, 1 and 1; the first word's best frame is missed, the second's two are equally good."""
    estimate = EXACT.copy()
    estimate[0, :2, :2] = [[2.0, 2.0], [3.0, 1.0]]
    found = agreement(estimate, EXACT, TEXT, VIDEO)
    assert found.rmse == pytest.approx(1)
    assert found.top1 == 50
    # Deviations from the means (2, 2): exact (-1, 1, 0, 0), estimate (0, 0, 1, -1).
    assert found.correlation == pytest.approx(0)


def test_a_constant_estimate_correlates_with_nothing():
    found = agreement(np.zeros_like(EXACT), EXACT, TEXT, VIDEO)
    assert np.isnan(found.correlation)
    assert found.rmse == pytest.approx(np.sqrt((1 + 9 + 4 + 4) / 4))


def test_nothing_real_is_an_error():
    with pytest.raises(ValueError, match="no real cell"):
        agreement(EXACT, EXACT, TEXT & False, VIDEO)
