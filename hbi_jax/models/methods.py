"""The models that `config.model.method` names."""

from collections.abc import Mapping

from hbi_jax.choices import Method
from hbi_jax.models.config import HBIConfig
from hbi_jax.models.hbi import HBI
from hbi_jax.models.hcmi import HCMI

METHODS: Mapping[Method, type[HBI]] = {"hbi": HBI, "hcmi": HCMI}


def make_model(config: HBIConfig) -> HBI:
    """Builds the model of a configuration."""
    return METHODS[config.method](config)
