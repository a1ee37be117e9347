"""Whether all hosts of a job see the same work folder and the same data."""

import hashlib
import secrets
import socket
import time
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from hbi_jax.data.datasets import DataError, Split
from hbi_jax.fields import ConfigError
from hbi_jax.parallel.processes import barrier, gather

# Seconds that a network file system may take to show another host's file, and how many videos are compared.
_PATIENCE, _VIDEOS = 10.0, 64


def check_same_folder(folder: epath.Path) -> None:
    """Checks that all processes see one work folder: the first writes a token that all others read.

    Raises:
      ConfigError: If a process does not see it.
    """
    if jax.process_count() == 1:
        return
    (token, *_) = gather(secrets.token_hex(8))
    file = folder / f".seen-by-all-{token}"
    if jax.process_index() == 0:
        file.write_text(token)
    barrier("the token is written")
    seen, begun = file.exists(), time.monotonic()
    while not seen and time.monotonic() - begun < _PATIENCE:
        time.sleep(0.2)
        seen = file.exists()
    found = gather((seen, socket.gethostname()))
    if jax.process_index() == 0:
        file.unlink()
    blind = [f"process {process} on {host}" for process, (sees, host) in enumerate(found) if not sees]
    if blind:
        raise ConfigError(
            f"--workdir={folder}: {', '.join(blind)} cannot see a file that process 0 on {found[0][1]} wrote there: "
            "wanted a folder that all hosts share; mount one under the same path on all hosts"
        )


def check_same_data(splits: Sequence[Split]) -> None:
    """Checks that all processes read the same records, and video files of the same sizes.

    Raises:
      DataError: If a process reads other data; names the split.
    """
    if jax.process_count() == 1:
        return
    found = gather((socket.gethostname(), {split.name: _fingerprint(split) for split in splits}))
    for process, (host, prints) in enumerate(found):
        for name, theirs in prints.items():
            ours = found[0][1][name]
            if theirs != ours:
                raise DataError(
                    f"split {name!r} on process {process} ({host})",
                    _described(theirs),
                    f"the data of process 0 on {found[0][0]}, {_described(ours)}",
                    "copy the same annotations and videos to all hosts, or mount one folder",
                )


def _fingerprint(split: Split) -> dict[str, Any]:
    """Returns the number of records, and digests of them and of the sizes of some of the video files."""
    records, sizes = hashlib.sha256(), []
    for record in split.records:
        records.update(repr((record.text, record.video_id, record.start, record.end)).encode())
    videos = split.videos
    for video in videos[:: max(1, len(videos) // _VIDEOS)]:
        try:
            sizes.append(video.path.stat().st_size)
        except OSError:
            sizes.append(-1)
    digest = hashlib.sha256(repr(sizes).encode())
    return {"records": len(split.records), "text": records.hexdigest(), "videos": digest.hexdigest()}


def _described(fingerprint: dict[str, Any]) -> str:
    number, text, videos = fingerprint.values()
    return f"{number:,} records (annotations {text[:8]}, sizes of videos {videos[:8]})"
