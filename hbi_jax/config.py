"""The door of the configuration: mutable `ConfigDict`s outside, the frozen `Config` inside.

A file in `configs/` starts from `default_config()` and changes what differs. `parse` checks the result and makes the
`Config` that everything else receives.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from hbi_jax import fields
from hbi_jax.fields import ConfigError
from hbi_jax.tasks.config import Config, read_config

__all__ = ["Config", "ConfigError", "default_config", "parse", "read_config"]


def default_config() -> ConfigDict:
    """The defaults as a mutable `ConfigDict`, for the files of `configs/` and `--config.field=value`."""
    return _config_dict(fields.plain(Config()))


def _config_dict(values: Mapping[str, Any]) -> ConfigDict:
    config = ConfigDict()
    for name, value in values.items():
        if isinstance(value, Mapping):
            value = _config_dict(value)
        # A field without a value yet takes text.
        config[name] = config_dict.placeholder(str) if value is None else value
    return config


def parse(config: ConfigDict | Mapping[str, Any]) -> Config:
    """Checks a configuration, every field alone and against the others, before any device work.

    Args:
      config: From `default_config`, or nested plain values, of which absent ones have their defaults.

    Raises:
      ConfigError: Names field, got, wanted and remedy, for the first field that cannot work.
    """
    values = config.to_dict() if isinstance(config, ConfigDict) else config
    parsed = fields.parse(Config, values, "config")
    fields.check(parsed, "config")
    return parsed
