"""The limits of a column: min, above and max. Pure.

The checked path compares single values. The fast path looks first for the numbers of a whole column that may be beyond
a limit.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import cached_property
from itertools import islice
from typing import Any

from etl.datasets import Column
from etl.ingestion.transform.tokens import SEPARATOR, places, starts
from etl.ingestion.values import Misfit

_MOST_NEAR = 64
"""If so many numbers of a column may be beyond a limit, all are compared with it."""


def bounds_check(column: Column, exact: Callable[[str], Any]) -> Callable[[Any], None] | None:
    """Return the check of min, above and max, or None where the column has none; it raises Misfit.

    `exact` converts the text of a bound to the type that the values of the column are compared as.
    """
    least, above, most = (
        None if bound is None else exact(str(bound)) for bound in (column.min, column.above, column.max)
    )
    if least is None and above is None and most is None:
        return None

    def check(value: Any) -> None:
        if least is not None and value < least:
            raise Misfit("23514", f"expected {column.min} or more")
        if above is not None and value <= above:
            raise Misfit("23514", f"expected more than {column.above}")
        if most is not None and value > most:
            raise Misfit("23514", f"expected {column.max} or less")

    return check


class Bounds:
    """The limits of a column of numbers."""

    def __init__(self, column: Column) -> None:
        self._least, self._above, self._most = (
            None if bound is None else Decimal(str(bound)) for bound in (column.min, column.above, column.max)
        )
        self._is_double = column.type == "double"
        self.are_none = self._least is self._above is self._most is None
        lower = [float(bound) for bound in (self._least, self._above) if bound is not None]
        self._below = below = max(lower, default=-math.inf)
        self._under = under = math.inf if self._most is None else float(self._most)
        inside = (below + under) / 2 if math.isfinite(below + under) else under - 1 if below == -math.inf else below + 1
        self._inside = str(inside).encode() if below < inside < under else None

    def hold(self, number: Decimal) -> bool:
        """Return whether a number is within the limits."""
        return (
            (self._least is None or number >= self._least)
            and (self._above is None or number > self._above)
            and (self._most is None or number <= self._most)
        )

    def surely_hold(self, joined: bytes) -> bool:
        """Return whether all numbers of a column are within the limits; False also where one may be at a limit."""
        return not self._rounded(joined)

    def doubtful(self, joined: bytes) -> Sequence[int]:
        """Return the places of the numbers of a column that may be outside of the limits."""
        if self._near and b"e" not in joined and b"E" not in joined:
            fields = SEPARATOR + joined
            found = list(islice(starts(self._near(fields)), _MOST_NEAR))
            if len(found) < _MOST_NEAR:
                return list(places(found, fields))
        return self._rounded(joined)

    @cached_property
    def _near(self) -> Callable[[bytes], Iterator[re.Match[bytes]]] | None:
        """The function that finds the fields without an exponent that may be beyond a limit, by sign and digits.

        None: signs and digits show too little.
        """
        lowest = max((bound for bound in (self._least, self._above) if bound is not None), default=None)
        if self._is_double:  # Some have too many digits for a double.
            return None
        if (lowest is not None and lowest > 0) or (self._most is not None and self._most < 1):
            return None
        ways = [] if self._most is None else [rf"[0-9]{{{_whole_digits(self._most)}}}"]
        if lowest is not None:
            ways.append(rf"-[0-9]{{{_whole_digits(lowest)}}}" if lowest <= -1 else "-")
        if self._above == 0:
            ways.append(r'0[.0]*+(?=["\x1f]|\Z)')
        return re.compile(rf'\x1f"?(?:{"|".join(ways)})'.encode()).finditer

    def _rounded(self, joined: bytes) -> Sequence[int]:
        """Return the places of the numbers of a column whose floats are not within those of the limits.

        Rounding to a float keeps the order: what is beyond the float of a limit is beyond the limit.
        """
        numbers = self._numbers(joined)
        if numbers is None:
            return range(joined.count(SEPARATOR) + 1)
        if min(numbers) > self._below and max(numbers) < self._under:
            return ()
        return [place for place, number in enumerate(numbers) if not self._below < number < self._under]

    def _numbers(self, joined: bytes) -> list[float] | None:
        """Return the numbers of a column as floats, with one within the limits for null; None if no float is within."""
        if self._inside is None:
            return None
        return list(map(float, joined.replace(b"null", self._inside).replace(b'"', b"").split(SEPARATOR)))


def _whole_digits(bound: Decimal) -> int:
    """Return how many digits a bound has before its point, without leading zeros: all shorter numbers are within."""
    return bound.adjusted() + 1
