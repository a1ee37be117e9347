"""The picture of estimated against exact interactions."""

import numpy as np
from PIL import Image

from hbi_jax.tasks.estimator.pictures import plot_estimates


def test_points_lie_on_the_diagonal_where_the_estimate_is_right(tmp_path):
    """A perfect estimate leaves the corners off the diagonal empty; a reversed one leaves the diagonal's ends empty."""
    rng = np.random.default_rng(0)
    exact = [rng.uniform(-1, 1, (64, 6, 5))]
    cells = [np.ones((64, 6, 5), bool)]
    pictures = []
    for sign in (1, -1):
        path = tmp_path / f"{sign}.png"
        plot_estimates(["entity"], exact, {"estimator": [sign * exact[0]]}, cells, path)
        pictures.append(np.asarray(Image.open(path).convert("RGB")).astype(int))
    # Hexagons are coloured; axes, text and the dashed line are grey.
    coloured = [np.ptp(picture, axis=2) > 40 for picture in pictures]
    places = [np.argwhere(mask) for mask in coloured]
    slopes = [np.corrcoef(place[:, 1], -place[:, 0])[0, 1] for place in places]
    assert slopes[0] > 0.9
    assert slopes[1] < -0.9


def test_padding_is_not_drawn(tmp_path):
    exact = np.random.default_rng(1).normal(size=(8, 3, 3))
    cells = np.ones(exact.shape, bool)
    cells[:, 2] = False
    drawn = []
    for filling in (0.0, 40.0):
        estimate = np.where(cells, exact, filling)
        path = tmp_path / f"{filling}.png"
        plot_estimates(["entity"], [np.where(cells, exact, -filling)], {"estimator": [estimate]}, [cells], path)
        drawn.append(path.read_bytes())
    assert drawn[0] == drawn[1]
