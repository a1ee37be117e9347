"""One owner of a work folder: a second one is refused, and a dead one is followed."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from hbi_jax.fields import ConfigError
from hbi_jax.tasks import lock
from hbi_jax.tasks.lock import LOCK, owned


def write_owner(folder, **changes):
    owner = lock._this_process()._replace(**changes)
    (folder / LOCK).write_text(json.dumps(owner._asdict()))
    return owner


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture
def short_patience(monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(lock, "TOUCH_SECONDS", 0.2)


def test_a_folder_is_owned_while_the_context_lasts(tmp_path):
    with owned(tmp_path):
        found = json.loads((tmp_path / LOCK).read_text())
        assert found["pid"] == os.getpid()
        # The same process may own it again: a command that trains and then evaluates.
        with owned(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_free_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), owned(tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused_and_the_first_loses_nothing(tmp_path, sleeper):
    write_owner(tmp_path, pid=sleeper, start=lock._start_of(sleeper), since="2026-01-01")
    before = (tmp_path / LOCK).read_bytes()
    with pytest.raises(ConfigError, match=rf"is in use by process {sleeper} on .*, since 2026-01-01: wanted a folder"):
        owned(tmp_path).__enter__()
    assert (tmp_path / LOCK).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.mark.parametrize("gone", ["no such process", "its number has another process"])
def test_a_dead_owner_on_this_machine_is_followed_at_once(tmp_path, sleeper, caplog, gone):
    pid = 2**22 + 1 if gone == "no such process" else sleeper
    write_owner(tmp_path, pid=pid, start="1")
    with caplog.at_level("WARNING", "hbi_jax"), owned(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert f"was owned by process {pid} on" in caplog.text
    assert "that process is gone: taking it over" in caplog.text


def test_an_owner_elsewhere_that_is_silent_is_followed(tmp_path, short_patience, caplog):
    write_owner(tmp_path, host="other", machine="another boot")
    with caplog.at_level("WARNING", "hbi_jax"), owned(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["host"] != "other"
    assert "waiting for a sign of life" in caplog.text
    assert "no sign of life for 1 seconds: taking it over" in caplog.text


def test_an_owner_elsewhere_that_gives_a_sign_of_life_is_respected(tmp_path, short_patience):
    write_owner(tmp_path, host="other", machine="another boot")
    done = threading.Event()

    def live():
        while not done.wait(0.05):
            os.utime(tmp_path / LOCK)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(ConfigError, match="on other, since"):
            owned(tmp_path).__enter__()
    finally:
        done.set()
        thread.join()


def test_the_owner_gives_signs_of_life(tmp_path, short_patience):
    with owned(tmp_path):
        before = (tmp_path / LOCK).stat().st_mtime_ns
        end = time.monotonic() + 10
        while (tmp_path / LOCK).stat().st_mtime_ns == before and time.monotonic() < end:
            time.sleep(0.05)
        assert (tmp_path / LOCK).stat().st_mtime_ns > before


def test_an_owner_that_was_taken_over_ends(tmp_path, short_patience, monkeypatch):
    """As after a pause of its machine: the folder is another's."""
    said = threading.Event()
    reasons = []
    monkeypatch.setattr(lock, "end", lambda reason, code: (reasons.append((reason, code)), said.set()))
    with owned(tmp_path):
        other = write_owner(tmp_path, host="other", machine="another boot")
        assert said.wait(10)
    assert reasons[0][1] == 1
    assert "was taken over by process" in reasons[0][0]
    # It leaves the other's lock alone.
    assert json.loads((tmp_path / LOCK).read_text())["token"] == other.token


def test_an_incomplete_lock_is_followed_when_it_is_old(tmp_path, short_patience):
    (tmp_path / LOCK).write_text('{"host": "')
    os.utime(tmp_path / LOCK, (1, 1))
    with owned(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_lock_of_a_faster_process_is_put_back(tmp_path):
    """Two see the same dead owner; the second must not remove the lock of the first."""
    dead = write_owner(tmp_path, pid=2**22 + 1, start="1")
    faster = write_owner(tmp_path, host="faster")
    lock._remove(tmp_path / LOCK, dead)
    assert lock._read(tmp_path / LOCK) == faster
    lock._remove(tmp_path / LOCK, faster)
    assert list(tmp_path.iterdir()) == []
