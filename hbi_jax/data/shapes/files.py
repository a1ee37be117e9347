"""Atomic file writes, with actionable errors."""

import contextlib
import os
from pathlib import Path

from hbi_jax.data.shapes.config import ShapesError

# Suffix of the file that an interrupted write leaves behind. The next run deletes it.
PARTIAL_SUFFIX = ".partial"


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a temporary file beside `path`, then renames it.

    Raises:
      ShapesError: If the file cannot be written (no space, permission or folder).
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # report the first error
            partial.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> ShapesError:
    """Returns the error to raise for a failed write."""
    return ShapesError(
        f"cannot write {path}: {error.strerror}; make room or choose another folder, then run the same "
        "command again: what is finished is kept."
    )
