"""The pickle machine: what it builds, and that nothing a pickle asks for is run."""

import os
import pickle
import random

import numpy as np
import pytest

from hbi_jax.pretrained import PretrainedError, pickles
from hbi_jax.pretrained.pickles import Bag, unpickle
from tests.pretrained.foreign import Parameter, Storage, Tensor, dumps, script_module, tensor


def find(key: str, dtype: np.dtype, length: int) -> pickles.Storage:
    return pickles.Storage(key, dtype, length)


CONTENT = {
    "numbers": [0, 1, -1, 255, 65536, 2**40, -(2**70), 0.5, float("inf"), True, False, None],
    "text": ["", "a", "ü" * 300, b"bytes", b"x" * 300],
    "nested": {"a": {"b": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]}, 5: {"set"}},
    "empty": [{}, [], ()],
}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_containers_are_as_pickle_has_them(protocol):
    content = {**CONTENT, "text": CONTENT["text"][:3]} if protocol < 3 else CONTENT
    assert unpickle(pickle.dumps(content, protocol), find) == content


def test_tensors_parameters_and_modules():
    shared = Storage(np.arange(6.0, dtype=np.float32))
    inner = script_module("Linear", weight=Tensor(shared, 0, (2, 3), (3, 1)), training=True)
    content = {"module": script_module("Net", inner=inner), "w": Parameter(Tensor(shared, 1, (2,), (2,)))}
    got = unpickle(dumps(content), find)
    storage = pickles.Storage("0", np.dtype(np.float32), 6)
    assert got["w"] == pickles.Tensor(storage, 1, (2,), (2,))
    net = got["module"]
    assert isinstance(net, Bag)
    assert net.attributes["inner"].attributes == {
        "weight": pickles.Tensor(storage, 0, (2, 3), (3, 1)),
        "training": True,
    }


class Payload:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (Payload(os.system, "touch ran"), "system"),
        (Payload(eval, "open('ran', 'w')"), "eval"),
        (Payload(os.makedirs, "ran"), "makedirs"),
        (Payload(__import__, "antigravity"), "__import__"),
    ],
)
def test_nothing_is_run(payload, name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({"weights": payload}, protocol)
    with pytest.raises(PretrainedError, match=rf"asks for \w+\.{name}, .*torch\.save\(model\.state_dict"):
        unpickle(data, find)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02X\x05\x00\x00\x00helloX\x01\x00\x00\x00aR.",  # calls a string
        b"\x80\x02ccollections\nOrderedDict\nX\x01\x00\x00\x00aR.",  # arguments that are no tuple
        b"\x80\x02ccollections\nOrderedDict\n}b.",  # attributes of a function
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02K\x03K\x04tR.",  # a number as storage
        b"\x80\x02]K\x01a\x94(K\x02u.",  # items into a list
        b"\x80\x02(K\x01]\x85K\x02d.",  # a list as key
        b"\x80\x02)\x81.",  # an instance of nothing
        b"\x80\x02(ios\nsystem\n.",  # INST
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x02h\x05.",  # unknown memo
        b"\x80\x02.",  # nothing at the end
        b"\x80\x02t.",  # no mark
        b"\x80\x02K\x01",  # no end
        b"\x80\x02(X\x05\x00\x00\x00otherK\x01tQ.",  # refers to something else
        b"",
        b"<html>",
    ],
)
def test_malformed_pickles_are_refused(data):
    with pytest.raises(PretrainedError):
        unpickle(data, find)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (7,), (1,)),
        (4, (3,), (1,)),
        (0, (2, 3), (4, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (1000, 1000), (0, 0)),
        (0, (0, 2**64), (1, 1)),
        (0, (2, 2), (1,)),
        (0, (2.0,), (1,)),
        (True, (2,), (1,)),
        (0, (1,) * 9, (1,) * 9),
        (7, (0,), (1,)),
    ],
)
def test_tensors_outside_their_storage_are_refused(offset, shape, strides):
    data = dumps(Tensor(Storage(np.zeros(6, np.float32)), offset, shape, strides))
    with pytest.raises(PretrainedError, match="it holds a tensor"):
        unpickle(data, find)


def test_shared_tuples_take_no_time():
    """Forty doublings: as a key, hashing would take a day; as a value it is one object."""
    double = b"K\x01" + b"2\x86" * 40
    assert len(unpickle(b"\x80\x02" + double + b".", find)) == 2
    for data in (b"}" + double + b"K\x02s.", b"(" + double + b"\x91.", double + b"2\x93."):
        with pytest.raises(PretrainedError):
            unpickle(b"\x80\x04" + data, find)


def test_damage_ends_in_one_error():
    """A thousand flipped bytes and truncations: the machine returns or raises its error, and no other."""
    good = dumps(
        {f"layer.{n}.weight": tensor(np.zeros((2, 3), np.float32)) for n in range(3)} | {"more": [CONTENT["empty"]]}
    )
    rng = random.Random(0)
    refused = 0
    for _ in range(1000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            data = data[: rng.randrange(len(data))]
        try:
            unpickle(bytes(data), find)
        except PretrainedError:
            refused += 1
    assert refused > 300
