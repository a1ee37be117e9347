"""Finds the video files of a data set by the ids used in the annotations."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NoReturn

from hbi_jax.data.datasets.readers import folder, shown
from hbi_jax.data.datasets.records import DataError, Record
from hbi_jax.data.names import compared, with_other_ending

# If an id has several files, the one whose extension comes first wins. Missing files are expected to have the first.
# fmt: off
EXTENSIONS = (
    ".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".3gp", ".mpg", ".mpeg", ".wmv", ".flv", ".ts",
    ".mts", ".m2ts", ".m2t", ".ogv", ".ogg", ".ogm", ".vob", ".qt", ".asf", ".f4v", ".3g2", ".3gpp", ".m2v", ".m1v",
    ".mpe", ".divx", ".gif",
)
# fmt: on
# File systems limit names to about this length.
_LONGEST_NAME = 250
# Number of missing videos for which files with other extensions are looked up.
_LOOKED_AT = 100
_RANK = {extension: number for number, extension in enumerate(EXTENSIONS)}


def list_videos(
    videos: str | pathlib.Path, recursive: bool = True, unlisted: Callable[[OSError], None] | None = None
) -> list[pathlib.Path]:
    """Returns the video files of a folder, sorted by the order of `EXTENSIONS`, then by path.

    Symbolic links to files are followed. Links to folders are not, because they could lead out of the folder or form a
    cycle.

    Args:
      videos: The folder.
      recursive: Whether to include subfolders.
      unlisted: Receives the error of each folder that cannot be listed; None: the first is raised.

    Raises:
      DataError: If the folder does not exist, or one cannot be listed and `unlisted` is None.
    """
    top = folder("videos", videos)
    found = []
    for parent, _, names in os.walk(top, onerror=unlisted or _raise_unlisted):
        found += [pathlib.Path(parent, name) for name in names if _extension(name)]
        if not recursive:
            break
    return sorted(found, key=lambda path: (_RANK[path.suffix.lower()], path))


class VideoFiles:
    """The video files of one folder."""

    def __init__(self, videos: str | pathlib.Path, prefix: str = "", recursive: bool = False):
        """Lists the folder.

        Args:
          videos: The folder.
          prefix: Prefix of ids that file names may omit.
          recursive: Whether to include subfolders. An id may then be a path within the folder, such as "film/clip", or
            only the name if it is unique.

        Raises:
          DataError: If the folder does not exist.
        """
        self._folder, self._prefix, self._recursive = pathlib.Path(videos), prefix, recursive
        self._files: dict[str, pathlib.Path] = {}
        self._names: dict[str, dict[pathlib.Path, pathlib.Path]] = {}  # name alone -> parent -> file
        for path in list_videos(videos, recursive):
            name = path.relative_to(self._folder).as_posix()
            stems = (name, *_stems(name))
            for video_id in dict.fromkeys((*stems, *map(compared, stems))):
                self._files.setdefault(video_id, path)
                self._names.setdefault(video_id.rpartition("/")[2], {}).setdefault(path.parent, path)

    def find(self, video_id: str, source: str) -> pathlib.Path:
        """Returns the file of a video or, if there is none, the path at which it was expected.

        Args:
          video_id: The id. It may end in one of `EXTENSIONS`, which need not be the file's. If there is no file with
            exactly this name, surrounding blanks and the encoding of accents (NFC or NFD) are ignored.
          source: File and row of the id, for messages.

        Raises:
          DataError: If the id is not a plain file name (with `recursive`, a path within the folder), or if it is
            ambiguous because several subfolders have such a file.
        """
        # An id becomes part of a path, so it must be a valid file name and must not lead out of the folder.
        parts = video_id.split("/") if self._recursive else [video_id]
        if any(part in ("", ".", "..") or _unfit(part) for part in parts):
            wanted = "a path within the folder of the videos" if self._recursive else "a plain file name"
            raise DataError(f"{source}, video_id", shown(video_id), wanted, "correct the id")
        stems = (video_id, *_stems(video_id), *_stems(video_id.removeprefix(self._prefix)))
        for name in dict.fromkeys((*stems, *map(compared, stems))):
            if name in self._files:
                return self._files[name]
            if self._recursive and (found := self._names.get(name)):
                if len(found) > 1:
                    got, remedy = " and ".join(sorted(map(str, found.values()))), "write the id with its folder"
                    raise DataError(f"{source}, video_id {video_id!r}", got, "one file", remedy)
                return next(iter(found.values()))
        return self._folder / (video_id if _extension(video_id) else video_id + EXTENSIONS[0])

    def check(self, records: Sequence[Record]) -> None:
        """Raises an error if no record has a video file, or if a file is behind a link to a folder.

        If no video has a file, the folder is probably wrong.

        Raises:
          DataError: In either case.
        """
        found = set(self._files.values())
        if records and not any(record.path in found for record in records):
            got, wanted = "none of the split's videos", f"{records[0].path} and others"
            others = sorted({path.suffix for record in records[:_LOOKED_AT] for path in with_other_ending(record.path)})
            if others:
                got += f", but files of their names that end on {', '.join(others)}"
                raise DataError(
                    f"videos {self._folder}", got, f"{wanted}, of {' '.join(EXTENSIONS)}", "convert or rename these"
                )
            raise DataError(f"videos {self._folder}", got, wanted, "correct the path")
        for record in records:
            # The file exists but was not listed, so its path goes through a link to a folder.
            if record.path not in found and record.path.parent != self._folder and record.path.exists():
                got, wanted = f"{record.path}, through a link", "a file below the folder of the videos"
                raise DataError(f"{record.source}, video_id", got, wanted, "copy the folder that the link is to")


def _raise_unlisted(error: OSError) -> NoReturn:
    wanted, remedy = "a folder that can be listed", "correct its permissions, or choose another folder"
    raise DataError(f"folder {error.filename}", str(error.strerror).lower(), wanted, remedy) from error


def without_extension(name: str) -> str:
    """Returns a video's name without extensions: "clip.mov", "clip.mov.mp4" and "clip" are the same video."""
    return _stems(name)[-1]


def _extension(name: str) -> str:
    """Returns the extension of a name if it is one of `EXTENSIONS`, otherwise ""."""
    extension = os.path.splitext(name)[1]
    return extension if extension.lower() in _RANK else ""


def _stems(name: str) -> list[str]:
    """Returns a name without its extension and, for converted copies ("clip.mov.mp4"), without both extensions."""
    stems = []
    while len(stems) < 2 and (extension := _extension(name)):
        name = name.removesuffix(extension)
        stems.append(name)
    return stems or [name]


def _unfit(part: str) -> bool:
    strange = (character in "/\\\0" or "\ud800" <= character <= "\udfff" for character in part)
    return len(part) > _LONGEST_NAME or any(strange)
