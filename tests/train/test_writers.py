"""Metric writers: the rows they leave, what resuming does to them, and the lines on the console."""

import io
import json
import math
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter

from hbi_jax.train.writers import ConsoleWriter, JsonlWriter, MultiWriter, TensorBoardWriter


class Clock:
    """A clock that stands still until told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(path):
    return [{name: value for name, value in row.items() if name != "time"} for row in read_rows(path)]


def read_events(folder):
    """The events of all files of a folder, decoded from the record format, checksums ignored."""
    events = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def test_jsonl_rows_hold_plain_numbers_of_any_scalar(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    writer = JsonlWriter(path)
    writer.write_scalars(3, {"loss/total": jnp.float32(0.5), "count": np.int64(7), "val/t2v/R@1": 12.5})
    writer.write_scalars(4, {"loss/total": float("nan"), "x": np.array([2.0]), "y": -math.inf})
    first, second = read_rows(path)  # readable before close: a run can be watched
    writer.close()
    assert isinstance(first.pop("time"), float)
    assert first == {"step": 3, "loss/total": 0.5, "count": 7.0, "val/t2v/R@1": 12.5}
    assert (second["step"], second["loss/total"], second["x"], second["y"]) == (4, None, 2.0, None)


def test_jsonl_appends_and_mends_a_half_written_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        writer = JsonlWriter(path)
        writer.write_scalars(step, {"a": step})
        writer.close()
    with path.open("a") as file:
        file.write('{"step": 3, "time": 1.0, "a"')
    writer = JsonlWriter(path)
    writer.write_scalars(4, {"a": 4})
    writer.close()
    assert without_times(path) == [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}, {"step": 4, "a": 4.0}]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_jsonl_of_a_resumed_run_equals_that_of_an_uninterrupted_one(tmp_path):
    def train(writer, steps):
        for step in steps:
            writer.write_scalars(step, {"loss/total": 1 / step})
            if step % 2 == 0:
                writer.write_scalars(step, {"val/t2v/R@1": 10.0 * step})

    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    writer = JsonlWriter(whole)
    train(writer, range(1, 9))
    writer.close()
    writer = JsonlWriter(broken)
    train(writer, range(1, 7))  # killed after 6, the last checkpoint is of step 4
    del writer
    with broken.open("a") as file:
        file.write('{"step": 7, "ti')
    writer = JsonlWriter(broken)
    writer.truncate_after(4)
    assert without_times(broken)[-1] == {"step": 4, "val/t2v/R@1": 40.0}
    train(writer, range(5, 9))
    writer.close()
    assert without_times(broken) == without_times(whole)
    assert len(read_rows(whole)) == 12


def test_jsonl_refuses_names_of_its_own_and_negative_steps(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="the name 'time'"):
        writer.write_scalars(1, {"time": 2.0})
    with pytest.raises(ValueError, match="step=-1 is negative"):
        writer.write_scalars(-1, {"a": 2.0})
    with pytest.raises(ValueError, match=r"size 1|scalar"):
        writer.write_scalars(1, {"a": np.zeros(2)})
    writer.close()
    assert read_rows(tmp_path / "metrics.jsonl") == []


def test_tensorboard_events_read_back(tmp_path):
    folder = tmp_path / "events"
    writer = TensorBoardWriter(folder)
    writer.write_scalars(5, {"loss/entity/contrastive": 0.25, "val/t2v/R@1": jnp.float32(50)})
    writer.flush()
    version, event = read_events(folder)
    assert version.file_version == "brain.Event:2"
    assert event.step == 5
    values = {value.tag: value.simple_value for value in event.summary.value}
    assert values == {"loss/entity/contrastive": 0.25, "val/t2v/R@1": 50.0}
    writer.close()

    # Started again at once: a file of its own, which hides what the first said after step 3.
    writer = TensorBoardWriter(folder)
    writer.truncate_after(3)
    writer.write_scalars(4, {"loss/total": 2.0})
    writer.close()
    assert len(list(folder.iterdir())) == 2
    events = read_events(folder)
    starts = [event for event in events if event.session_log.status == SessionLog.START]
    assert [event.step for event in starts] == [4]
    assert [event.step for event in events if event.summary.value] == [5, 4]
    assert events[-1].summary.value[0].simple_value == 2.0


def test_tensorboard_records_carry_checksums(tmp_path):
    writer = TensorBoardWriter(tmp_path / "events")
    writer.write_scalars(1, {"a": 1.0})
    writer.close()
    (file,) = (tmp_path / "events").iterdir()
    copy = RecordWriter(str(tmp_path / "copy"))
    for event in read_events(tmp_path / "events"):
        copy.write(event.SerializeToString())
    copy.close()
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()


def test_console_line():
    clock, stream = Clock(), io.StringIO()
    writer = ConsoleWriter(600, stream=stream, clock=clock)
    row = {"learning_rate": 1e-4, "loss/entity/interaction": 2e-5, "loss/total": 3.14159}
    writer.write_scalars(20, row)
    clock.now += 10
    writer.write_scalars(60, {**row, "loss/total": 25.06})
    writer.write_scalars(60, {"val/t2v/R@1": 43.21, "val/t2v/MdR": 2.0})
    assert stream.getvalue().splitlines() == [
        "step  20/600   3.3%  loss 3.142  entity/interaction 2.0e-05",
        "step  60/600  10.0%  loss 25.1  entity/interaction 2.0e-05  4.00 steps/s  ETA 2:15",
        "step  60/600  10.0%  val/t2v/R@1 43.2  4.00 steps/s  ETA 2:15",
    ]


def test_console_rate_forgets_the_compilation():
    clock, stream = Clock(), io.StringIO()
    writer = ConsoleWriter(1000, names=(), stream=stream, clock=clock)
    writer.write_scalars(0, {})
    clock.now += 500
    for step in range(1, 12):
        writer.write_scalars(step, {})
        clock.now += 0.5
    lines = stream.getvalue().splitlines()
    assert lines[1].endswith("0.00 steps/s  ETA 138:45 h")
    assert lines[-1].endswith("2.00 steps/s  ETA 8:15")


def test_console_writes_to_the_current_standard_error(capsys):
    ConsoleWriter(10).write_scalars(10, {"loss/total": 1.0})
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "step 10/10 100.0%  loss 1.000\n")


def test_multi_writer_reaches_everyone_and_closes_all(tmp_path):
    class Foreign:
        """As clu's writers: it cannot take anything back."""

        def __init__(self):
            self.calls = []

        def write_scalars(self, step, scalars):
            self.calls.append((step, scalars))

        def flush(self):
            self.calls.append("flush")

        def close(self):
            self.calls.append("close")
            raise OSError(28, "No space left on device")

    foreign, path = Foreign(), tmp_path / "metrics.jsonl"
    writer = MultiWriter([foreign, JsonlWriter(path), TensorBoardWriter(tmp_path / "events")])
    for step in (1, 2):
        writer.write_scalars(step, {"a": jnp.float32(step)})
    writer.truncate_after(1)
    writer.flush()
    with pytest.raises(OSError, match="No space left"):
        writer.close()
    assert foreign.calls == [(1, {"a": 1.0}), (2, {"a": 2.0}), "flush", "close"]
    assert type(foreign.calls[0][1]["a"]) is float
    assert without_times(path) == [{"step": 1, "a": 1.0}]
    assert [event.step for event in read_events(tmp_path / "events")] == [0, 1, 2, 2]
