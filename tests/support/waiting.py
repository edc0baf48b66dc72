"""The only way in which tests wait for a condition: frequent checks, up to a time limit."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def until(condition: Callable[[], Value], what: str, seconds: float = 30, *, pause: float = 0.01) -> Value:
    """Return the value of the condition as soon as it is true; check again after each pause."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(pause)
    return value
