import collections
import os
import pickle
import pickletools
import random

import pytest

from hbi_jax.data.datasets import DataError
from hbi_jax.data.datasets.plain_pickle import read_plain_pickle


def read(tmp_path, data):
    path = tmp_path / "data.pkl"
    path.write_bytes(data)
    return read_plain_pickle(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value", [{}, [], "zwölf \n\\x", [1, -1, 255, 70_000, 2**40, 0.5], {"a": [["b", "b"], []], 7: {"c": []}}, [[]] * 0]
)
def test_plain_values_come_back(tmp_path, value, protocol):
    assert read(tmp_path, pickle.dumps(value, protocol)) == value


def test_many_values_at_once_come_back(tmp_path):
    rng = random.Random(0)
    value = {f"v{i}": [[str(rng.random()) for _ in range(rng.randrange(5))] for _ in range(7)] for i in range(300)}
    for protocol in (0, 2, 4):
        assert read(tmp_path, pickle.dumps(value, protocol)) == value
    assert read(tmp_path, pickletools.optimize(pickle.dumps(value, 4))) == value


class Command:
    """What a malicious file holds: something to call."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Keeper:
    """An object with attributes."""


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_executed(tmp_path, protocol):
    target = tmp_path / "executed"
    for value in (Command(target), {"v": [Command(target)]}, [[{"a": Command(target)}]]):
        with pytest.raises(DataError, match=r"another or damaged pickle .*wanted a pickle of lists"):
            read(tmp_path, pickle.dumps(value, protocol))
        assert not target.exists()


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Keeper()),
        pickle.dumps(collections.OrderedDict(a=1)),
        pickle.dumps({"v": {"a"}}),
        pickle.dumps((1, 2)),
        pickle.dumps(None),
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"Pid\n.",
        b"\x80\x04\x82\x01.",  # a registered extension
        b"\x80\x04\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes without end
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.",  # text without end
        b"\x80\x02X\xff\xff\xff\xffa.",
        b"",
        b".",
        b"]",
        b"]]",
        b"K\x01K\x02.",
        b"K\x01a.",
        b"]a.",
        b"]s.",
        b"e.",
        b"(e.",
        b"}(K\x01u.",
        b"}]K\x01s.",  # a list as a key
        b"g7\n.",
        b"gx\n.",
        b"I" + b"9" * 5000 + b"\n.",
        b"\xff" * 100,
    ],
)
def test_anything_else_is_refused(tmp_path, data):
    with pytest.raises(DataError, match="another or damaged pickle"):
        read(tmp_path, data)


def test_a_few_bytes_cannot_grow_without_end(tmp_path):
    nested: list = []
    for _ in range(60):
        nested = [nested, nested]
    looped: list = []
    looped.append(looped)
    for value in (nested, looped):
        with pytest.raises(DataError, match="a list or dict in two places"):
            read(tmp_path, pickle.dumps(value))
    with pytest.raises(DataError, match="a text repeated without end"):
        read(tmp_path, pickle.dumps(["a" * 10**6] * 200))
    assert len(read(tmp_path, pickle.dumps(["word"] * 10**5))) == 10**5
    # Memory number 2**32 - 1, for which Python's own reader makes an array of that length.
    assert read(tmp_path, b"]r\xff\xff\xff\xff.") == []


def test_depth_is_no_problem(tmp_path):
    value = read(tmp_path, b"]" * 100_000 + b"a" * 99_999 + b".")
    for _ in range(99_999):
        (value,) = value
    assert value == []


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.pkl: got no such file"):
        read_plain_pickle(tmp_path / "none.pkl")
