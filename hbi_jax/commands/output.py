"""What commands write: results as JSON lines, and names of files that are not Unicode."""

import contextlib
import io
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any


def print_any_name() -> None:
    """Lets standard output take names of files that are not UTF-8, byte by byte as they are on the disk."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


@contextlib.contextmanager
def jsonl(path: str | None) -> Iterator[Callable[[Iterable[Mapping[str, Any]]], None]]:
    """Opens a file for results, so that one that cannot be written is reported before the work.

    Args:
      path: The file, a pipe or a device; None: results are written nowhere.

    Yields:
      A function that replaces the content of the file by rows, one JSON object per line. Until it is called, the file
      keeps what it has.

    Raises:
      OSError: If the file cannot be written.
    """
    with open(path or os.devnull, "a", encoding="utf-8") as file:

        def write(rows: Iterable[Mapping[str, Any]]) -> None:
            lines = [f"{_line(row)}\n" for row in rows]
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file.truncate(0)
            file.writelines(lines)

        yield write


def _line(row: Mapping[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False)
    # JSON writes what UTF-8 cannot, such as the bytes of a name in another encoding, as escapes.
    return line if _is_utf8(line) else json.dumps(row)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
