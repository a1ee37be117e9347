"""Files that readers see whole: the old version or the new one."""

import contextlib
import os
import pathlib
import uuid

# What an interruption leaves beside the files.
LEFTOVERS = ".*.tmp"


def replace_file(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Writes a file atomically; leaves it alone if it has this content already.

    A link stays, and the file that it leads to is replaced. A pipe or a device gets the content.

    Args:
      path: The file; its folder must exist.
      data: The content; text is written as UTF-8.

    Raises:
      OSError: If the file cannot be written. What was there is unchanged.
    """
    content = data.encode() if isinstance(data, str) else data
    if os.path.exists(path) and not os.path.isfile(path):
        pathlib.Path(path).write_bytes(content)
        return
    target = pathlib.Path(os.path.realpath(path))
    with contextlib.suppress(OSError):
        if target.read_bytes() == content:
            return
    # The name does not contain the file's own, which may already have the maximum length.
    beside = target.with_name(LEFTOVERS.replace("*", uuid.uuid4().hex[:12]))
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except OSError as error:
        # The user knows the name of the file.
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
