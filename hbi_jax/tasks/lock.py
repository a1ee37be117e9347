"""One owner of a work folder: a lock file that names the host, the process and the time of its start.

The owner touches the file every few seconds. A lock is stale if its process is gone from this machine or, for an owner
on another machine, if the file has not been touched for a minute by the clock of the file system.
"""

import contextlib
import datetime
import json
import logging
import os
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from hbi_jax.fields import ConfigError
from hbi_jax.parallel.job import end

_log = logging.getLogger(__name__)

LOCK = "owner.json"
# Seconds between two touches of the file, and after how many without a touch an owner elsewhere counts as dead.
TOUCH_SECONDS, STALE_SECONDS = 5.0, 60.0


class Owner(NamedTuple):
    """The process that owns a work folder.

    Attributes:
      host: Its host name.
      pid: Its process id.
      since: When it took the folder, in UTC.
      machine: Identifies the running system whose process ids these are; empty if unknown.
      start: When the process started, in the system's ticks, which tells it from a later one of the same id.
      token: A random number.
    """

    host: str
    pid: int
    since: str
    machine: str
    start: str
    token: str

    def __str__(self) -> str:
        """Returns a description for messages."""
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextlib.contextmanager
def owned(workdir: str | os.PathLike[str]) -> Iterator[None]:
    """Owns a work folder while the context lasts. A process that owns it already may own it again.

    Args:
      workdir: The folder; it must exist.

    Raises:
      ConfigError: If another process owns the folder.
    """
    path = pathlib.Path(workdir) / LOCK
    mine = _this_process()
    if not _take(path, mine):
        yield
        return
    done = threading.Event()
    threading.Thread(target=_keep, args=[path, mine, done], daemon=True).start()
    try:
        yield
    finally:
        done.set()
        with contextlib.suppress(OSError):
            if _read(path) == mine:
                path.unlink()


def _take(path: pathlib.Path, mine: Owner) -> bool:
    """Writes the lock; returns False if this process has it already."""
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            pass
        else:
            with os.fdopen(descriptor, "w") as file:
                file.write(json.dumps(mine._asdict()))
            return True
        owner = _read(path)
        if owner is not None and owner._replace(since="", token="") == mine._replace(since="", token=""):
            return False
        if owner is None and not path.exists():
            continue
        reason = _stale(path, owner)
        if reason is None:
            raise ConfigError(
                f"--workdir={path.parent} is in use by {owner or 'a process that is just starting'}: wanted a folder "
                "of this run's own; choose another --workdir, or wait for that process or end it"
            )
        _log.warning("%s was owned by %s, and %s: taking it over", path.parent, owner or "an unknown process", reason)
        _remove(path, owner)


def _stale(path: pathlib.Path, owner: Owner | None) -> str | None:
    """Returns why a lock's owner counts as gone, or None if it lives. May wait for a sign of life for a minute."""
    here = _machine()
    if owner is not None and here and owner.machine == here:
        return None if _start_of(owner.pid) == owner.start else "that process is gone"
    with contextlib.suppress(FileNotFoundError):
        touched, told = path.stat().st_mtime, False
        while (age := _now(path.parent) - touched) < STALE_SECONDS:
            if path.stat().st_mtime != touched:
                return None
            if not told and owner is not None:
                _log.warning("%s is owned by %s: waiting for a sign of life", path.parent, owner)
                told = True
            time.sleep(min(TOUCH_SECONDS / 5, max(0.01, STALE_SECONDS - age)))
    return f"it has shown no sign of life for {STALE_SECONDS:.0f} seconds"


def _remove(path: pathlib.Path, stale: Owner | None) -> None:
    """Removes a stale lock, unless another process has just taken it over."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if _read(aside) != stale:
            # Another process was faster, and this is its lock.
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def _keep(path: pathlib.Path, mine: Owner, done: threading.Event) -> None:
    """Touches the lock until done; ends the process if another one has taken the folder over."""
    while not done.wait(TOUCH_SECONDS):
        with contextlib.suppress(OSError):
            owner = _read(path)
            if owner is not None and owner != mine and not done.is_set():
                end(f"{path.parent} was taken over by {owner}, because this process gave no sign of life; it ends", 1)
            os.utime(path)


def _read(path: pathlib.Path) -> Owner | None:
    """Returns the owner that a lock names, or None if there is none or the file is incomplete."""
    try:
        return Owner(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _now(folder: pathlib.Path) -> float:
    """Returns the time of the folder's file system."""
    probe = folder / f".{LOCK}.{secrets.token_hex(4)}"
    try:
        probe.write_text("")
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _this_process() -> Owner:
    now = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
    pid = os.getpid()
    return Owner(socket.gethostname(), pid, now, _machine(), _start_of(pid), secrets.token_hex())


def _machine() -> str:
    """Returns what identifies this system and its process ids: boot and process namespace; empty if unknown."""
    with contextlib.suppress(OSError):
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _start_of(pid: int) -> str:
    """Returns when a process started, in ticks since boot; empty if there is no such process or it is ending."""
    fields: list[Any] = []
    with contextlib.suppress(OSError):
        # The name, in parentheses, may hold blanks.
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return "" if not fields or fields[0] in "ZX" else fields[19]
