"""Dates and times that may be texts, as the server writes those that the calendar of Python lacks. Pure."""

import datetime as dt
from collections.abc import Iterable


def newest(values: Iterable[dt.datetime | str | None]) -> dt.datetime | str | None:
    """Return the newest of times that may be texts or missing; a text only where there is nothing else."""
    known = [value for value in values if value is not None]
    instants = [value for value in known if not isinstance(value, str)]
    return max(instants, default=known[0] if known else None)
