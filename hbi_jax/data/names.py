"""Names of files: how they are compared, and files that have a name with another ending."""

import glob
import pathlib
import unicodedata


def compared(name: str) -> str:
    """A name as it is compared: without blanks around it, and accents encoded in one way.

    Systems differ in whether "é" is one character (NFC) or two (NFD); what is copied to another keeps its form.
    """
    return unicodedata.normalize("NFC", name.strip())


def with_other_ending(path: str | pathlib.Path) -> list[pathlib.Path]:
    """Files that differ from one in their ending alone."""
    path = pathlib.Path(path)
    return sorted(other for other in path.parent.glob(glob.escape(path.stem) + ".*") if other.suffix != path.suffix)
