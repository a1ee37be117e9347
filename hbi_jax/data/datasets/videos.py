"""The video files of a data set, found by the id that the annotations use."""

import pathlib
from collections.abc import Sequence

from hbi_jax.data.datasets.readers import folder
from hbi_jax.data.datasets.records import DataError, Record

# Where an id has several files, the first of these wins; a missing file is expected to have the first.
EXTENSIONS = (".mp4", ".webm", ".mkv", ".avi", ".mov")


class VideoFiles:
    """The video files of one folder."""

    def __init__(self, videos: str | pathlib.Path, prefix: str = ""):
        """Lists the folder.

        Args:
          videos: The folder; what is below it in other folders is not looked at.
          prefix: The beginning of an id that the names of the files may lack.

        Raises:
          DataError: If there is no such folder.
        """
        self._folder, self._prefix = folder("videos", videos), prefix
        self._files: dict[str, pathlib.Path] = {}
        rank = {extension: number for number, extension in enumerate(EXTENSIONS)}
        for path in sorted(self._folder.iterdir(), key=lambda path: rank.get(path.suffix.lower(), len(rank))):
            if path.suffix.lower() in rank:
                self._files.setdefault(path.stem, path)

    def find(self, video_id: str, source: str) -> pathlib.Path:
        """The file of a video or, where there is none, the path where it was expected.

        Args:
          video_id: The id.
          source: File and row of the id, for messages.

        Raises:
          DataError: If the id is not a plain file name.
        """
        # An id becomes a part of a path: it must be one that can be, and must not lead out of the folder.
        if video_id in ("", ".", "..") or any(c in "/\\\0" or "\ud800" <= c <= "\udfff" for c in video_id):
            raise DataError(f"{source}, video_id", repr(video_id), "a plain file name", "correct the id")
        expected = self._folder / (video_id + EXTENSIONS[0])
        return self._files.get(video_id) or self._files.get(video_id.removeprefix(self._prefix), expected)

    def check(self, records: Sequence[Record]) -> None:
        """Refuses records of which no video has a file: then it is the folder that is wrong.

        Raises:
          DataError: If none has.
        """
        found = set(self._files.values())
        if records and not any(record.path in found for record in records):
            got, wanted = "none of the split's videos", f"{records[0].path} and others"
            raise DataError(f"videos {self._folder}", got, wanted, "correct the path")
