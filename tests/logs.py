"""What the library logs, without what threads of other libraries log meanwhile, also those of earlier tests."""

import logging

import pytest


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The records of this library's loggers."""
    return [record for record in caplog.records if record.name.startswith("hbi_jax")]
