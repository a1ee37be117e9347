"""Files that readers see whole: the old version or the new one."""

import contextlib
import os
import pathlib


def replace_file(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Writes a file atomically; leaves it alone if it has this content already.

    Args:
      path: The file; its folder must exist.
      data: The content; text is written as UTF-8.

    Raises:
      OSError: If the file cannot be written. What was there is unchanged.
    """
    target, content = pathlib.Path(path), data.encode() if isinstance(data, str) else data
    with contextlib.suppress(OSError):
        if target.read_bytes() == content:
            return
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
