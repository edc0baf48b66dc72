"""Commands that run in the process of the tests change the logging of the whole process."""

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """Begin and end without configured logging, as a program does."""
    structlog.reset_defaults()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # Logging that a command of another test configured in this process.
    root.handlers[:] = [handler for handler in handlers if type(handler).__module__.startswith("_pytest")]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
