"""Seeds on the command line."""

import re

from hbi_jax.fields import LARGEST_SEED


def parse_seed(text: str) -> int:
    """Returns the seed that a text gives.

    Raises:
      ValueError: If it gives none.
    """
    if re.fullmatch("[0-9]{1,10}", text) and int(text) <= LARGEST_SEED:
        return int(text)
    raise ValueError(f"--seed={text}: wanted a whole number in 0..{LARGEST_SEED}; choose such a one")
