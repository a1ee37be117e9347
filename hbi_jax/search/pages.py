"""The tokens of clips in memory-mapped files, of which the process holds few pages at a time."""

import mmap
from collections.abc import Mapping, Sequence

import numpy as np

from hbi_jax.search.engine import Places

# Bytes of files that may stay mapped after a query, because to map them again costs time. Of more, all are given back.
KEPT_BYTES = 2**30
# Rows read at once; each can map as much as 2 MiB around it.
_ROWS = 256


class Pages:
    """The stored arrays of segments.

    Attributes:
      arrays: The arrays of each segment by name; none for a segment without clips.
      num_bytes: Their size.
    """

    def __init__(self, arrays: Sequence[Mapping[str, np.ndarray]]):
        """Reads nothing yet."""
        self.arrays = arrays
        self.num_bytes = sum(array.nbytes for each in arrays for array in each.values())

    def give_back(self, *names: str) -> None:
        """Unmaps the pages of the named arrays, or of all, if the files are large; later reads map them again."""
        if self.num_bytes <= KEPT_BYTES:
            return
        for each in self.arrays:
            for name in names or each:
                if name in each and isinstance(each[name].base, mmap.mmap):
                    each[name].base.madvise(mmap.MADV_DONTNEED)

    def gather(self, places: Places, *names: str) -> dict[str, np.ndarray]:
        """Returns some rows of the named arrays, or of all, in the order of the places."""
        out = {}
        first = next(filter(None, self.arrays), {})
        for name in names or first:
            out[name] = np.empty((len(places.row), *first[name].shape[1:]), first[name].dtype)
            for number in np.unique(places.segment):
                here = np.flatnonzero(places.segment == number)
                for start in range(0, len(here), _ROWS):
                    some = here[start : start + _ROWS]
                    out[name][some] = self.arrays[number][name][places.row[some]]
                    self.give_back(name)
        return out
