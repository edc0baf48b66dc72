"""What commands that run in the process of the tests set up for all of it."""

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """Begin and end without anyone's logging, as a program does."""
    structlog.reset_defaults()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # What a command of another test set up in this process.
    root.handlers[:] = [handler for handler in handlers if type(handler).__module__.startswith("_pytest")]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
