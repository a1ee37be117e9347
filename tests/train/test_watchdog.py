"""The watchdog: a stall is reported with stack traces, and progress is not."""

import threading
import time

from hbi_jax.train import watchdog
from hbi_jax.train.watchdog import Watchdog


def test_a_stall_is_reported_with_stack_traces(capfd):
    stalled, found = threading.Event(), []

    def on_stall(reason, code):
        found.append((reason, code))
        stalled.set()

    with Watchdog(0.3 / 60, on_stall) as dog:
        dog.beat("step 7")
        assert stalled.wait(20)
    (reason, code), *_ = found
    assert code == 1
    assert "no progress for 0.0 minutes (step 7), longer than config.train.stall_minutes=0.005" in reason
    printed = capfd.readouterr().err
    assert "test_a_stall_is_reported_with_stack_traces" in printed


def test_progress_is_no_stall():
    found = []
    with Watchdog(1.5 / 60, lambda *reason: found.append(reason)):
        for _ in range(10):
            time.sleep(0.3)
            watchdog.beat()
    assert found == []


def test_without_a_limit_nothing_is_watched():
    before = set(threading.enumerate())
    with Watchdog(0.0) as dog:
        assert set(threading.enumerate()) <= before
        dog.beat()
    watchdog.beat()
