"""Memory that this process has freed, but the C library has kept."""

import contextlib
import ctypes


def give_back() -> None:
    """Returns freed memory to the operating system, where the C library is glibc; elsewhere does nothing.

    A compiler takes gigabytes in small pieces. After they are freed, glibc keeps them for the next small pieces, and
    the large arrays of a training step come on top of them.
    """
    # Windows has no library of this name, and other C libraries have no such function.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
