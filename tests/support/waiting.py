"""The one way in which tests wait for a condition: often asked, and not longer than a bound."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def until(condition: Callable[[], Value], what: str, seconds: float = 30, *, pause: float = 0.01) -> Value:
    """Return what the condition gives as soon as that is true; ask again after each pause."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(pause)
    return value
