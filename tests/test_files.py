"""Files that are replaced whole or not at all."""

import os
import pathlib
import threading

import pytest

from hbi_jax.files import replace_file


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    replace_file(path, "one\n")
    replace_file(path, b"two \xc3\xa4\n")
    assert path.read_text(encoding="utf-8") == "two ä\n"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_the_same_is_left_alone(tmp_path):
    path = tmp_path / "a.json"
    replace_file(path, "one\n")
    os.utime(path, (1, 1))
    replace_file(path, "one\n")
    assert path.stat().st_mtime == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_what_fails_leaves_the_old_file(tmp_path, monkeypatch, call):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.json"
    replace_file(path, "one\n")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a.json'$"):
        replace_file(path, "two\n")
    assert path.read_text() == "one\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_the_file_that_it_leads_to_is_replaced(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.json").write_text("one\n")
    links = {"there.json": elsewhere / "a.json", "new.json": pathlib.Path("elsewhere", "b.json")}
    for name, target in links.items():
        link = tmp_path / name
        link.symlink_to(target)
        replace_file(link, "two\n")
        assert link.readlink() == target
        assert link.read_text() == "two\n"
    assert sorted(path.name for path in elsewhere.iterdir()) == ["a.json", "b.json"]


def test_a_pipe_and_a_device_get_the_content(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    replace_file(pipe, "one\n")
    reader.join(60)
    assert got == ["one\n"]
    assert pipe.is_fifo()
    ours, theirs = os.openpty()
    terminal = pathlib.Path(os.ttyname(theirs))
    replace_file(terminal, "one\n")
    assert os.read(ours, 100) == b"one\r\n"
    assert terminal.is_char_device()
    for end in (ours, theirs):
        os.close(end)
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path, "one\n")


def test_a_name_of_the_maximum_length_is_replaced(tmp_path):
    path = tmp_path / ("a" * 250 + ".html")
    for text in ("one\n", "two\n"):
        replace_file(path, text)
        assert path.read_text() == text
    with pytest.raises(OSError, match=f"File name too long: '.*/{'a' * 256}'"):
        replace_file(tmp_path / ("a" * 256), "one\n")
    assert list(tmp_path.iterdir()) == [path]
