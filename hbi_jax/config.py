"""Conversion of mutable `ConfigDict`s, which files and flags change, into the frozen `Config` used everywhere else.

A file in `configs/` starts from `default_config()` and changes the fields that differ. `parse` checks the result and
returns the `Config`.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from hbi_jax import fields
from hbi_jax.fields import ConfigError
from hbi_jax.tasks.config import Config, read_config

__all__ = ["Config", "ConfigError", "default_config", "parse", "read_config"]


def default_config() -> ConfigDict:
    """Returns the defaults as a mutable `ConfigDict`, for the files of `configs/` and `--config.field=value`."""
    return _config_dict(fields.plain(Config()))


def _config_dict(values: Mapping[str, Any]) -> ConfigDict:
    config = ConfigDict()
    for name, value in values.items():
        if isinstance(value, Mapping):
            value = _config_dict(value)
        # A field whose default is None accepts text.
        config[name] = config_dict.placeholder(str) if value is None else value
    return config


def parse(config: ConfigDict | Mapping[str, Any]) -> Config:
    """Checks every field of a configuration and the relations between fields, and returns the `Config`.

    Args:
      config: A configuration from `default_config`, or nested plain values; absent fields get their defaults.

    Raises:
      ConfigError: For the first invalid field, with field, got, wanted and remedy.
    """
    values = config.to_dict() if isinstance(config, ConfigDict) else config
    parsed = fields.parse(Config, values, "config")
    fields.check(parsed, "config")
    return parsed
