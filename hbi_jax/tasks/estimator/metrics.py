"""Agreement of an estimated interaction with the exact one, over the real cells of many pairs."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class Agreement(NamedTuple):
    """The agreement of estimated with exact interactions.

    Attributes:
      rmse: Root mean squared error over real cells, in the units of the interaction.
      correlation: Pearson correlation over the real cells of all pairs; NaN if either side is constant.
      top1: Percentage of real words with the same best frame in both. If several frames tie in the exact interaction,
        each of them counts as right.
    """

    rmse: float
    correlation: float
    top1: float


def agreement(
    estimate: Float[np.ndarray, "b t v"],
    exact: Float[np.ndarray, "b t v"],
    text_mask: Bool[np.ndarray, "b t"],
    video_mask: Bool[np.ndarray, "b v"],
) -> Agreement:
    """Compares an estimate with the exact interaction.

    Args:
      estimate, exact: The interactions, in the same units.
      text_mask, video_mask: True at real tokens.

    Raises:
      ValueError: If no cell is real.
    """
    cells = text_mask[:, :, None] & video_mask[:, None, :]
    if not cells.any():
        raise ValueError("text_mask and video_mask leave no real cell; wanted at least one pair with tokens.")
    a, b = estimate[cells].astype(np.float64), exact[cells].astype(np.float64)
    spread = a.std() * b.std()
    correlation = float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 0 else float("nan")
    words = text_mask & video_mask.any(axis=1)[:, None]
    choice = np.where(cells, estimate, -np.inf).argmax(axis=2)
    exact = np.where(cells, exact, -np.inf)
    chosen = np.take_along_axis(exact, choice[:, :, None], axis=2)[:, :, 0]
    return Agreement(
        rmse=float(np.sqrt(np.mean((a - b) ** 2))),
        correlation=correlation,
        top1=100 * float(np.mean((chosen == exact.max(axis=2))[words])),
    )
