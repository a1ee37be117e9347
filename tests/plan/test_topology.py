"""Topologies: which names are known, and what is said of the others."""

import importlib.util

import jax
import pytest

from hbi_jax.fields import ConfigError
from hbi_jax.plan.topology import Topology, open_topology


def test_simulated_devices():
    found = open_topology("cpu:4")
    assert (found.name, found.chip, found.hosts) == ("cpu:4", None, 1)
    assert list(found.devices) == jax.devices()[:4]


@pytest.mark.parametrize(
    "name", ["v5e", "v5e:", "v5e:0x4", "v9:2x2", "cpu:2x4", "v5e:2x2x2x2", "v5e:2x4 ", "gpu:8", ""]
)
def test_unknown_names_are_told(name):
    with pytest.raises(ConfigError) as told:
        open_topology(name)
    assert str(told.value).startswith(f"--topology={name}: wanted v4, v5e, v5p, v6e with the chips along each axis")


def test_a_slice_larger_than_a_pod_is_told():
    with pytest.raises(ConfigError, match="--topology=v5e:32x16 has 512 chips: wanted at most the 256 of a pod"):
        open_topology("v5e:32x16")


def test_more_simulated_devices_than_there_are():
    with pytest.raises(ConfigError, match="--topology=cpu:9: wanted at most the 8 simulated devices of this process"):
        open_topology("cpu:9")


def test_a_missing_compiler_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the compiler of TPUs, libtpu, .* pip install 'hbi_jax\[plan\]'"):
        open_topology("v5e:2x4")


@pytest.mark.parametrize(
    ("name", "chips", "slices", "hosts"),
    [
        ("v5e:4x4", 16, 1, 2),
        ("v5p:2x2x1", 4, 1, 1),
        ("v5p:2x2x2", 8, 1, 2),
        ("v5e:2x2", 16, 4, 4),
        ("v5e:4x4", 32, 2, 4),
    ],
)
def test_hosts_serve_several_chips_of_one_slice(name, chips, slices, hosts):
    from hbi_jax.plan.chips import CHIPS

    devices = jax.devices()[:1] * chips
    assert Topology(name, CHIPS[name.partition(":")[0]], devices, slices).hosts == hosts
