"""Values of pgvector's types: an array of numbers of one length. Pure.

The server would refuse a wrong one with nothing but `data exception`, and for a whole batch at once.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from math import isnan
from typing import Any, Final, NoReturn

from etl.datasets.types import ServerType
from etl.ingestion.values import Misfit

_LIMITS: Final = {"vector": 3.4028235677973366e38, "halfvec": 65520.0}
"""From these on a number is rounded to infinity."""

_NUMBERS: Final = {int, float, Decimal}
_SIZE = re.compile(r"\( *([0-9]+) *\)")


class Judge:
    """Refuses what does not fit a type such as vector(384); what it lets pass, the server judges."""

    def __init__(self, type_: ServerType) -> None:
        size = _SIZE.search(type_.name)
        self._size = int(size[1]) if size else None
        self._expected = f"an array of {self._size} numbers" if self._size else "an array of numbers"
        self._limit = next(limit for name, limit in _LIMITS.items() if name in type_.name.lower().replace('"', ""))

    def require_fit(self, elements: Sequence[Any]) -> None:
        """Raise Misfit for elements of a JSON array that are no vector of this type."""
        if not set(map(type, elements)) <= _NUMBERS:
            place, wrong = next(pair for pair in enumerate(elements, 1) if type(pair[1]) not in _NUMBERS)
            self._refuse("22P02", f"{_kind_of(wrong)} at place {place}")
        count = len(elements)
        if count != (self._size or count) or not count:
            self._refuse("22000", str(count) if self._size else "an empty one")
        if not -self._limit < min(elements) <= max(elements) < self._limit:
            self._refuse("22003", "a number that is too large for it")

    def require_text_fits(self, text: str) -> None:
        """Raise Misfit for a text as PostgreSQL writes a vector, `[1,2,3]`, that is none of this type."""
        inner = text.strip().removeprefix("[").removesuffix("]")
        try:
            numbers = [float(part) for part in inner.split(",")] if inner.strip() else []
        except ValueError:
            self._refuse("22P02", "a text that has something else between its brackets")
        if any(map(isnan, numbers)):
            self._refuse("22000", "NaN, which has no distance")
        self.require_fit(numbers)

    def _refuse(self, sqlstate: str, found: str) -> NoReturn:
        raise Misfit(sqlstate, f"expected {self._expected}, got {found}")


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, dict | list):
        return "an array" if isinstance(value, list) else "an object"
    return "text" if isinstance(value, str) else "another value"
