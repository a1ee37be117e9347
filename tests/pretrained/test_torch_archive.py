"""Torch's zip archives read without torch: types, views, wrappers, TorchScript, and damage of every sort."""

import random
import tracemalloc
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.pretrained import PretrainedError
from hbi_jax.pretrained.sources import open_source
from hbi_jax.pretrained.torch_archive import read_archive
from tests.pretrained.foreign import (
    Storage,
    Tensor,
    dumps,
    random_array,
    script_module,
    tensor,
    write_archive,
    write_state,
)

STATE = {"a.weight": random_array("a", (3, 4)), "a.bias": random_array("b", (3,)), "scale": random_array("s", ())}


def read(path):
    return {name: entry.read() for name, entry in read_archive(path).items()}


def assert_state(got, wanted):
    assert set(got) == set(wanted)
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype, name
        np.testing.assert_array_equal(got[name], array)


def test_a_state_dict(tmp_path):
    write_state(tmp_path / "w.pt", STATE)
    assert_state(read(tmp_path / "w.pt"), STATE)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_wrapped_one_beside_other_things(tmp_path, key):
    state = {name: tensor(array) for name, array in STATE.items()}
    optimizer = {"state": {0: {"exp_avg": tensor(np.ones(2, np.float32))}}, "param_groups": [{"lr": 0.1}]}
    write_archive(tmp_path / "w.pt", {"epoch": 3, "optimizer": optimizer, key: state})
    assert_state(read(tmp_path / "w.pt"), STATE)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "bool", "uint8"])
def test_types(tmp_path, dtype):
    array = (10 * random_array("x", (4, 5))).astype(dtype)
    write_state(tmp_path / "w.pt", {"x": array})
    assert_state(read(tmp_path / "w.pt"), {"x": array})


def test_bfloat16(tmp_path):
    array = random_array("x", (6,)).astype(jnp.bfloat16)
    write_archive(tmp_path / "w.pt", {"x": Tensor(Storage(array, "BFloat16"), 0, (6,), (1,))})
    assert_state(read(tmp_path / "w.pt"), {"x": array})


def test_views_of_one_storage(tmp_path):
    numbers = random_array("n", (24,))
    shared = Storage(numbers)
    views = {
        "transposed": Tensor(shared, 0, (4, 6), (1, 4)),
        "part": Tensor(shared, 5, (2, 3), (6, 2)),
        "same": Tensor(shared, 0, (24,), (1,)),
        "empty": Tensor(shared, 24, (0, 3), (3, 1)),
    }
    write_archive(tmp_path / "w.pt", views)
    part = np.array([[numbers[5 + 6 * i + 2 * j] for j in range(3)] for i in range(2)])
    wanted = {
        "transposed": numbers.reshape(6, 4).T,
        "part": part,
        "same": numbers,
        "empty": np.zeros((0, 3), np.float32),
    }
    assert_state(read(tmp_path / "w.pt"), wanted)
    with zipfile.ZipFile(tmp_path / "w.pt") as file:
        assert [name for name in file.namelist() if "/data/" in name] == ["archive/data/0"]


def test_torchscript(tmp_path):
    """Modules within modules, numbers among the attributes, code beside the weights."""
    inner = script_module("Linear", weight=tensor(STATE["a.weight"]), bias=tensor(STATE["a.bias"]), training=False)
    net = script_module("Net", a=inner, scale=tensor(STATE["scale"]), size=7, title="net")
    code = {"code/__torch__/model.py": b"import os\nos.abort()\n", "constants.pkl": dumps(())}
    write_archive(tmp_path / "w.pt", net, **code)
    assert_state(read(tmp_path / "w.pt"), STATE)


def rezip(path, change):
    """The archive with its members passed through `change(name, data)`; None drops one."""
    with zipfile.ZipFile(path) as file:
        members = {name: change(name, file.read(name)) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            if data is not None:
                file.writestr(name, data)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda name, data: None if name.endswith("data.pkl") else data, "not one of torch"),
        (lambda name, data: None if name.endswith("data/1") else data, "storage 1 is missing"),
        (
            lambda name, data: data[:-4] if name.endswith("data/0") else data,
            "storage 0 has 44 bytes, wanted 12 numbers",
        ),
        (lambda name, data: data[:-9] if name.endswith("data.pkl") else data, "its pickle is damaged"),
        (lambda name, data: dumps([1, 2]) if name.endswith("data.pkl") else data, "it holds no state dict"),
        (lambda name, data: dumps({"epoch": 1}) if name.endswith("data.pkl") else data, "it holds no state dict"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, change, complaint):
    path = tmp_path / "w.pt"
    write_state(path, STATE)
    rezip(path, change)
    with pytest.raises(PretrainedError, match=complaint) as error:
        read(path)
    assert "w.pt" in str(error.value)


def test_other_archives_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    write_archive(path, {"x": tensor(np.zeros(3, np.float32))}, byteorder=b"big")
    with pytest.raises(PretrainedError, match="big-endian"):
        read_archive(path)
    write_archive(path, {"x": tensor(np.zeros(3, np.float32))}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(PretrainedError, match="compressed"):
        read_archive(path)
    loop = script_module("Net", scale=tensor(STATE["scale"]))
    loop.again = loop
    write_archive(path, loop)
    with pytest.raises(PretrainedError, match="nested without end"):
        read_archive(path)


STORAGE = b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n%sX\x03\x00\x00\x00cpu%stQ."
DOUBLED = b"K\x01" + 40 * b"2\x86"
LONG_LIST = b"]q\x00(" + 10**5 * b"N" + b"e0"
LONG_DICT = b"}q\x00(" + b"".join(b"M%sN" % n.to_bytes(2, "little") for n in range(2**16)) + b"u0"
BOMBS = {
    "a key of doubled tuples": (STORAGE % (DOUBLED, b"K\x01"), "a storage whose key is no text"),
    "a key of nested tuples": (STORAGE % (b")" + 20_000 * b"\x85", b"K\x01"), "a storage whose key is no text"),
    "a length of tuples": (STORAGE % (b"X\x01\x00\x00\x000", DOUBLED), "or whose length is no number"),
    "copies as tuples": (
        b"\x80\x02" + LONG_LIST + b"ctorch\nSize\nq\x010](" + 99 * b"h\x01h\x00\x85R" + b"e.",
        "builds more than 4000000",
    ),
    "copies as attributes": (
        b"\x80\x02" + LONG_DICT + b"c__torch__\nM\nq\x010](" + 99 * b"h\x01)\x81h\x00b" + b"e.",
        "builds more than 4000000",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_few_bytes_do_not_fill_the_memory(tmp_path, name):
    data, complaint = BOMBS[name]
    write_archive(tmp_path / "w.pt", data)
    tracemalloc.start()
    try:
        with pytest.raises(PretrainedError, match=complaint) as error:
            read_archive(tmp_path / "w.pt")
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 500


def test_names_that_grow_with_every_module(tmp_path):
    net = script_module("Net", weight=tensor(np.zeros(1, np.float32)))
    for _ in range(20):
        net = script_module("Net", **{100 * "x": net})
    write_archive(tmp_path / "w.pt", net)
    with pytest.raises(PretrainedError, match="nested without end"):
        read_archive(tmp_path / "w.pt")


def test_changed_numbers_are_noticed(tmp_path):
    """A weight whose bytes do not fit their checksum is not read."""
    path = tmp_path / "w.pt"
    write_state(path, STATE)
    data = bytearray(path.read_bytes())
    place = data.index(STATE["a.weight"].tobytes())
    data[place + 5] ^= 1
    path.write_bytes(data)
    entries = read_archive(path)
    entries["a.bias"].read()
    with pytest.raises(PretrainedError, match=r"data/0 do not fit their checksum"):
        entries["a.weight"].read()


def test_damage_ends_in_one_error(tmp_path):
    """Flipped bits and truncations: either the numbers are right, or it is the one error."""
    path = tmp_path / "w.pt"
    write_state(path, STATE)
    good, rng, refused = path.read_bytes(), random.Random(0), 0
    for number in range(400):
        data = bytearray(good)
        if number % 4:
            place = rng.randrange(8 * len(data))
            data[place // 8] ^= 1 << place % 8
        else:
            data = data[: rng.randrange(len(data))]
        path.write_bytes(data)
        try:
            got = read(path)
        except PretrainedError:
            refused += 1
        else:
            assert_state(got, STATE)
    assert refused > 200


@pytest.mark.slow
def test_what_torch_itself_writes(tmp_path):
    """State dicts of several types and layouts, parameters, TorchScript; files of old torch are told apart."""
    torch = pytest.importorskip("torch")

    path = tmp_path / "w.pt"
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.LayerNorm(5), torch.nn.MultiheadAttention(4, 2))
    net[0].weight.data = net[0].weight.data.transpose(2, 3).contiguous().transpose(2, 3)
    wanted = {name: value.numpy() for name, value in net.state_dict().items()}
    for content in (net.state_dict(), dict(net.named_parameters()), {"state_dict": net.state_dict(), "epoch": 1}):
        torch.save(content, path)
        assert_state(read(path), wanted)
    half = {name: value.bfloat16() for name, value in net.state_dict().items()}
    torch.save(half, path)
    for name, array in read(path).items():
        np.testing.assert_array_equal(array.astype(np.float32), half[name].float().numpy())

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Sequential(torch.nn.Linear(3, 4))
            self.scale = torch.nn.Parameter(torch.tensor(2.0))
            self.register_buffer("size", torch.tensor(7))

        def forward(self, x):
            return self.inner(x) * self.scale

    model = Scaled()
    torch.jit.trace(model, torch.zeros(1, 3)).save(str(path))
    assert_state(read(path), {name: value.numpy() for name, value in model.state_dict().items()})
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(PretrainedError, match="bare pickle"):
        open_source(path)
