"""Seeds on the command line."""

import re

# NumPy, Grain and JAX all take these, and JAX tells no others apart.
LARGEST = 2**32 - 1


def parse_seed(text: str) -> int:
    """Returns the seed that a text gives.

    Raises:
      ValueError: If it gives none.
    """
    if re.fullmatch("[0-9]{1,10}", text) and int(text) <= LARGEST:
        return int(text)
    raise ValueError(f"--seed={text}: wanted a whole number in 0..{LARGEST}; choose such a one")
