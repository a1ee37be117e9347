"""Results as JSON lines: when the file changes, what it may be, and names that are not Unicode."""

import json
import os
import threading

import pytest

from hbi_jax.commands.output import jsonl

ROWS = [{"video": "é.mp4", "score": 1.5}, {"video": os.fsdecode(b"caf\xe9.mp4"), "score": 0.5}]


def test_a_file_is_replaced_once_there_are_results(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("of an earlier time\n")
    with jsonl(str(file)) as write:
        assert file.read_text() == "of an earlier time\n"
        write(ROWS)
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == ROWS
    assert "é.mp4" in file.read_text(encoding="utf-8")


def test_a_row_that_cannot_be_written_loses_nothing(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("of an earlier time\n")
    with pytest.raises(TypeError), jsonl(str(file)) as write:
        write([{"score": object()}])
    assert file.read_text() == "of an earlier time\n"


def test_a_pipe_gets_the_rows(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    with jsonl(str(pipe)) as write:
        write(ROWS)
    reader.join(timeout=10)
    assert [json.loads(line) for line in got[0].splitlines()] == ROWS


def test_without_a_file_rows_go_nowhere(tmp_path):
    with jsonl(None) as write:
        write(ROWS)
    with pytest.raises(OSError, match="No such file"), jsonl(str(tmp_path / "absent" / "rows.jsonl")):
        pytest.fail("opened")
