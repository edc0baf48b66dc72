"""Objects that are a single value in the extended JSON of a database. Pure; the loader's `unwrap` reads them."""

from typing import Any, Literal

from etl.inference.identifiers import words

_MONGO = words(
    """
    $binary $date $numberDecimal $numberDouble $numberInt $numberLong $oid $symbol $timestamp $undefined $uuid
    """
)
_DYNAMODB = {"S": str, "N": str, "BOOL": bool, "NULL": bool}

Wrapping = Literal["mongo", "dynamodb"]


def wrapping_of(value: dict[str, Any]) -> Wrapping | None:
    """Return the name of the extended JSON whose scalar an object is, or None."""
    name = next(iter(value), "")
    if name[:1] == "$":
        return "mongo" if name in _MONGO else None
    if len(value) == 1 and name in _DYNAMODB and isinstance(value[name], _DYNAMODB[name]):
        return "dynamodb"
    return None
