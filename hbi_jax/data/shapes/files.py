"""Writing files so that each is there whole or not at all, with errors a person can act on."""

import contextlib
import os
from pathlib import Path

from hbi_jax.data.shapes.config import ShapesError

# What an interrupted write leaves behind; the next run deletes it.
PARTIAL_SUFFIX = ".partial"


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside `path` and renames.

    Raises:
      ShapesError: The file cannot be written: no space, no permission, no such folder.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            partial.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> ShapesError:
    """The message for a failed write."""
    return ShapesError(
        f"cannot write {path}: {error.strerror}; make room or choose another folder, then run the same "
        "command again: what is finished is kept."
    )
