"""File names: normalises them for comparison and finds files that differ in their extension."""

import glob
import pathlib
import unicodedata


def compared(name: str) -> str:
    """Returns a name in the form used for comparison: stripped of surrounding blanks, accents in NFC form.

    Systems differ in whether "é" is one character (NFC) or two (NFD), and a copied file keeps its form.
    """
    return unicodedata.normalize("NFC", name.strip())


def with_other_ending(path: str | pathlib.Path) -> list[pathlib.Path]:
    """Returns the files whose path differs from `path` only in the extension."""
    path = pathlib.Path(path)
    return sorted(other for other in path.parent.glob(glob.escape(path.stem) + ".*") if other.suffix != path.suffix)
