"""Files that are replaced whole or not at all."""

import os

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
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, "two\n")
    assert path.read_text() == "one\n"
    assert list(tmp_path.iterdir()) == [path]
