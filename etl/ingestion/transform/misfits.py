"""Misfits of whole columns -> the columns that take them. Pure: the fast path.

Only texts that surely fit no number, date or time are moved here; a record with another misfit is suspect.
"""

import re
from collections.abc import Sequence

from etl.datasets import Column
from etl.datasets.types import NumberType, TimeType
from etl.ingestion.transform.rules import Token
from etl.ingestion.transform.tokens import NULL, SEPARATOR, places, starts

# A number, a date and a time begin with a digit, a number also with a sign, a point or blanks. The only letter that can
# follow their first digits is the e of an exponent.
_MISFIT = re.compile(
    rb'\x1f("(?:[^"\\\x1f0-9+\-. ][^"\\\x1f]*+|[+\-.]?|[0-9]++(?:[.,][0-9]++)? ?[A-DF-Za-df-z][^"\\\x1f]*+)")(?=\x1f)'
)


def is_movable(source: Column, target: Column) -> bool:
    """Return whether a misfit of a column goes to its other column as it is written."""
    is_changed = source.null_if or source.trim or source.default is not None or source.required or source.formats
    is_limited = target.one_of or target.max_length is not None or target.required
    is_target_changed = target.null_if or target.trim or target.default is not None
    is_plain = target.type == "text" and not (is_limited or is_target_changed)
    is_of_digits = isinstance(source.column_type, NumberType | TimeType)
    return is_of_digits and not is_changed and is_plain and source.value is None and target.value is None


def moved(source: Sequence[Token], target: Sequence[Token]) -> tuple[Sequence[Token], Sequence[Token]]:
    """Return the tokens of two columns with the misfits of the first in the second, where it is null."""
    joined = b"%b%b%b" % (SEPARATOR, SEPARATOR.join(source), SEPARATOR)
    found = list(_MISFIT.finditer(joined))
    if not found:
        return source, target
    sources, targets = list(source), list(target)
    for place, match in zip(places(starts(found), joined), found, strict=True):
        if bytes(targets[place]) == b"null":
            sources[place], targets[place] = NULL, match[1]
    return sources, targets
