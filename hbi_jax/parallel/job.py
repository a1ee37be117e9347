"""The processes of one job: they start together, and where one fails, all end within seconds with its exit code.

JAX alone notices a dead process after minutes, and then aborts. Here every process keeps a connection to process 0. The
operating system reports at once when it ends. A process that fails says so before it ends, and prints its reason after
the others are gone, so that it is the last line of the job's output.
"""

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import jax
from jax._src import distributed

# Seconds that processes wait for each other at the end: for the slowest report of another process, and for the others
# to be gone before the reason is printed.
_SHUTDOWN_SECONDS, _FAREWELL_SECONDS = 24 * 3600, 5.0
# Seconds that process 0 waits, where it fails early, for those that have not joined yet: without it they abort.
_JOIN_SECONDS = 12.0
# Seconds to wait for the news of another process's failure, which may be the cause of one's own error.
_NEWS_SECONDS = 5.0
# Bytes of a message, which may escape every character, and characters of the reason in it.
_LONGEST_MESSAGE, _LONGEST_REASON = 65536, 5000
_KEY = "hbi_jax/job"


class Failure(NamedTuple):
    """The failure that ends a job.

    Attributes:
      process: The index of the process that failed.
      where: Its host and process id.
      reason: The reason, in one or more lines.
      code: The exit code of all processes.
    """

    process: int
    where: str
    reason: str
    code: int


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes of the job; what is None is detected, where JAX can.

    Raises:
      ValueError: If something cannot be detected.
    """
    global _member
    jax.distributed.initialize(coordinator, num_processes, process_id, shutdown_timeout_seconds=_SHUTDOWN_SECONDS)
    state = distributed.global_state
    if state.num_processes == 1:
        return
    try:
        _member = _Member(state.process_id, state.num_processes, state.client, state.coordinator_address)
    except OSError as error:
        _exit(
            f"error: process {state.process_id} of the job cannot reach process 0 at {state.coordinator_address} "
            f"({error}): wanted hosts that accept connections from each other on all ports; open them",
            1,
        )
    if state.service is not None:
        state.service = _LastToEnd(state.service, _member)


def guarded(command: Callable[[], int | None], show_traceback: bool = False) -> int | None:
    """Runs a command of a process that has joined its job. If it fails, the whole job ends.

    Args:
      command: Returns the exit code.
      show_traceback: Whether to print the traceback of an error that a user can fix.
    """
    try:
        code = command()
    except KeyboardInterrupt:
        end("interrupted", 130)
    except SystemExit as stop:
        if stop.code:
            end("see above", stop.code if isinstance(stop.code, int) else 1)
        code = None
    except Exception as error:
        if _member is not None and any(map(_is_of_runtime, _causes(error))):
            _member.wait_for_news()
        expected = isinstance(error, ValueError | OSError)
        if show_traceback or not expected:
            traceback.print_exc()
        end(str(error) if expected else f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}", 1)
    if _member is not None:
        _member.leave()
    return code


def end(reason: str, code: int) -> NoReturn:
    """Ends this process, and all processes of its job, with a reason and an exit code. May be called in any thread."""
    if _member is not None:
        _member.fail(reason, code)
    _exit(f"error: {reason}", code)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, the one that caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_runtime(error: BaseException) -> bool:
    """Tells errors of XLA's runtime, by which JAX reports that a peer is gone, from those that are this process's own.

    They are RuntimeErrors, or plain ValueErrors that begin with the name of a status, such as `UNKNOWN: `.
    """
    return isinstance(error, RuntimeError) or re.match(r"[A-Z_]{3,}: ", str(error)) is not None


def _exit(message: str, code: int) -> NoReturn:
    sys.stdout.flush()
    # In one piece: other processes may be writing to the same pipe.
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
    # Not sys.exit, after which JAX waits for the other processes.
    os._exit(code)


class _Member:
    """This process as a member of its job. Process 0 also runs the hub that the others are connected to."""

    def __init__(self, index: int, count: int, client: Any, coordinator: str):
        self._index, self._where = index, f"process {os.getpid()} on {socket.gethostname()}"
        # Whether this process is ending, so that the end of process 0 is no news.
        self._left, self._other_failed = False, threading.Event()
        if index == 0:
            self._hub = _Hub(count, self._obey)
            client.key_value_set(_KEY, json.dumps({"port": self._hub.port, "token": self._hub.token}))
            return
        self._hub = None
        about = json.loads(client.blocking_key_value_get(_KEY, 300_000))
        address = coordinator.rpartition(":")[0].strip("[]")
        self._link = _Link(socket.create_connection((address, about["port"]), timeout=60))
        self._link.send({"token": about["token"], "process": index, "where": self._where})
        threading.Thread(target=self._listen, daemon=True).start()

    def leave(self) -> None:
        """Says that this process is ending well."""
        self._left = True
        if self._hub is None:
            self._link.send({"left": True})

    def wait_until_alone(self) -> None:
        """Waits until the other processes are gone, if this is process 0; for a while at most."""
        if self._hub is not None:
            self._hub.wait_until_alone()

    def wait_for_news(self) -> None:
        """Gives another process's failure, which ends this process, the time to become known."""
        if self._other_failed.wait(_NEWS_SECONDS):
            time.sleep(2 * _FAREWELL_SECONDS)

    def fail(self, reason: str, code: int) -> NoReturn:
        """Ends the job."""
        if threading.current_thread() is threading.main_thread():
            # A launcher may stop all processes now; the reason is still to be printed.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._left, failure = True, Failure(self._index, self._where, reason[:_LONGEST_REASON], code)
        if self._hub is not None:
            if self._hub.announce(failure) is not failure:
                # The thread that heard of the first failure is about to end this process.
                time.sleep(_JOIN_SECONDS + 2 * _FAREWELL_SECONDS)
            self._hub.wait_until_alone()
        else:
            self._link.send({"failure": failure})
            # Process 0 is the last of the others to end; it may end this one because another failed before.
            self._link.wait_until_closed(_FAREWELL_SECONDS + 5)
        _exit(f"error: process {self._index} of the job failed: {reason}", code)

    def _listen(self) -> None:
        """Waits for news from process 0."""
        for message in self._link.messages():
            self._obey(Failure(*message["failure"]))
        if not self._left:
            self._obey(Failure(0, "process 0", _SILENT, 1))

    def _obey(self, failure: Failure) -> None:
        """Ends this process because another one failed."""
        self._other_failed.set()
        if self._hub is not None:
            self._hub.wait_until_alone(besides=failure.process)
        _exit(
            f"error: process {failure.process} of the job failed ({failure.where}): {failure.reason}\n"
            f"process {self._index} ends because of this",
            failure.code,
        )


class _LastToEnd:
    """JAX's coordination service, which process 0 shuts down as it ends: here after the other processes are gone.

    gRPC aborts the process if it shuts a server down to which a request of another process is just coming.
    """

    def __init__(self, service: Any, member: _Member):
        self._service, self._member = service, member

    def shutdown(self) -> None:
        self._member.wait_until_alone()
        self._service.shutdown()


_SILENT = "it ended without a word: it was killed, it ran out of memory, or its machine is gone"
_member: _Member | None = None


class _Link:
    """A connection that carries one JSON object a line."""

    def __init__(self, connection: socket.socket):
        self._connection, self._lock = connection, threading.Lock()
        self._closed = threading.Event()
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A machine that disappears says nothing: ask after 5 seconds of silence, and give up after 15.
        for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 15000)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: dict) -> None:
        """Sends a message; does nothing if the other end is gone."""
        with self._lock, contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yields the messages until the connection ends."""
        with contextlib.suppress(OSError, ValueError), self._connection.makefile("rb") as lines:
            while line := lines.readline(_LONGEST_MESSAGE):
                yield json.loads(line)
        self._closed.set()
        self._connection.close()

    def wait_until_closed(self, seconds: float) -> None:
        """Waits until the other end is gone."""
        self._closed.wait(seconds)


class _Hub:
    """The end of all connections, in process 0."""

    def __init__(self, count: int, obey: Callable[[Failure], None]):
        self._obey, self.token = obey, secrets.token_hex()
        self._links: dict[int, _Link] = {}
        self._awaited = set(range(1, count))
        self._failure: Failure | None = None
        self._changed = threading.Condition()
        self._server = socket.create_server(("", 0)) if not socket.has_dualstack_ipv6() else _dual_stack_server()
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def announce(self, failure: Failure) -> Failure:
        """Tells the other processes about a failure if it is the first; returns the first."""
        with self._changed:
            if self._failure is not None:
                return self._failure
            self._failure, links = failure, dict(self._links)
        for process, link in links.items():
            if process != failure.process:
                link.send({"failure": failure})
        return failure

    def wait_until_alone(self, besides: int = 0) -> None:
        """Waits until all processes but one have joined and are gone, for a while at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._awaited, _JOIN_SECONDS)
            self._changed.wait_for(lambda: set(self._links) <= {besides}, _FAREWELL_SECONDS)

    def _accept(self) -> None:
        while True:
            connection, _ = self._server.accept()
            threading.Thread(target=self._serve, args=[_Link(connection)], daemon=True).start()

    def _serve(self, link: _Link) -> None:
        """Listens to one process until its connection ends."""
        messages, left = link.messages(), False
        hello = next(messages, {})
        if hello.get("token") != self.token:
            return
        process = hello["process"]
        with self._changed:
            self._links[process] = link
            self._awaited.discard(process)
            self._changed.notify_all()
            failure = self._failure
        if failure is not None:
            link.send({"failure": failure})
        for message in messages:
            left = left or "left" in message
            if "failure" in message:
                failure = Failure(*message["failure"])
                first = self.announce(failure)
                if first is failure:
                    threading.Thread(target=self._obey, args=[failure], daemon=True).start()
                else:
                    link.send({"failure": first})
        with self._changed:
            del self._links[process]
            self._changed.notify_all()
        failure = Failure(process, hello["where"], _SILENT, 1)
        if not left and self.announce(failure) is failure:
            self._obey(failure)


def _dual_stack_server() -> socket.socket:
    return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
