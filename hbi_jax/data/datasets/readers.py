"""Readers for annotation files: text, CSV, JSON and JSON lines. Every `DataError` names the file and place."""

import codecs
import collections
import csv
import io
import json
import os
import pathlib
import reprlib
from collections.abc import Sequence
from typing import Any

from hbi_jax.data.datasets.records import DataError


def folder(field: str, path: str | pathlib.Path) -> pathlib.Path:
    """Returns `path`, the value of the option `field`, if it is a folder.

    Raises:
      DataError: If it is not a folder.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise DataError(f"{field} {path}", "no such folder", "a folder", "correct the path or get the data")
    return path


# Limits that keep enough of a value to find it in its file.
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxdict, _REPR.maxlist, _REPR.maxstring, _REPR.maxother = 3, 12, 12, 160, 160


def shown(value: Any) -> str:
    """Returns the repr of an annotation value for messages, cut if it is long or deep."""
    return _REPR.repr(value)


def content(path: os.PathLike[str]) -> bytes:
    """Returns the bytes of a file.

    Raises:
      DataError: If the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path}", reason.lower(), "a readable file", "correct the name or get the file") from error


def read_lines(path: pathlib.Path) -> list[tuple[int, str]]:
    """Returns the non-blank lines of a text file, stripped, each with its line number.

    Raises:
      DataError: If the file cannot be read.
    """
    # `splitlines` would also split at Unicode separators inside a JSON string or a sentence.
    return [(number, line.strip()) for number, line in enumerate(_text(path).split("\n"), 1) if line.strip()]


def read_csv(path: pathlib.Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Returns the rows of a CSV file with at least these columns, stripped, each with its line number.

    Raises:
      DataError: If the file cannot be read, lacks a column, or has a row of the wrong length.
    """
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    rows = []
    try:
        reader.fieldnames = found = [name.strip() for name in reader.fieldnames or []]
        for column in columns:
            if column not in found:
                wanted = f"a column {column!r}"
                raise DataError(f"{path}", f"the columns {list(found)}", wanted, "name the columns in its first line")
        for row in reader:
            if None in row or None in row.values():
                wanted = f"the {len(found)} of the first line"
                raise DataError(f"{path}, line {reader.line_num}", "another number of values", wanted, "correct it")
            rows.append((reader.line_num, {name: value.strip() for name, value in row.items()}))
    except csv.Error as error:
        field = f"{path}, after line {reader.line_num}"
        raise DataError(field, f"malformed CSV ({error})", "a CSV file", "correct the line") from error
    return rows


def read_json(path: os.PathLike[str]) -> Any:
    """Returns the content of a JSON file.

    Raises:
      DataError: If the file cannot be read, or an object has a duplicate key.
    """
    return _parse(_text(path), f"{path}", "a JSON file", "get the file again")


def read_json_lines(path: pathlib.Path) -> list[tuple[int, Any]]:
    """Returns the JSON values of a file with one value per line, each with its line number; skips blank lines.

    Raises:
      DataError: If the file or one of its lines cannot be read.
    """
    return [
        (number, _parse(line, f"{path}, line {number}", "a JSON value a line", "correct the line"))
        for number, line in read_lines(path)
    ]


def _parse(text: str, field: str, wanted: str, remedy: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise DataError(field, f"malformed JSON ({error})", wanted, remedy) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key that it has twice, Python would silently keep the last value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(key, count)] = collections.Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key!r} {count} times in one object")
    return found


# Byte order marks, as spreadsheets write them. UTF-32 comes before UTF-16 because its mark starts with UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def _text(path: os.PathLike[str]) -> str:
    data = content(path)
    encoding = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), "utf-8")
    wanted, remedy = "text in UTF-8", "save it as UTF-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        guess = "a Windows code page" if encoding == "utf-8" and b"\0" not in data else "UTF-16, or a damaged file"
        got = f"bytes that are not {encoding.upper()[:6].rstrip('-')} (perhaps {guess})"
        raise DataError(f"{path}, line {line}", got, wanted, remedy) from error
    if len(data) >= 8 and not (any(data[:8:2]) and any(data[1:8:2])):
        raise DataError(f"{path}", "zeros between its letters (UTF-16 without a mark?)", wanted, remedy)
    return text.replace("\r\n", "\n").replace("\r", "\n")
