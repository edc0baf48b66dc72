"""Values that are one word of a fixed form: their conversions, and the checks of their tokens. Pure."""

import re
from collections.abc import Sequence
from typing import Any, assert_never

from etl.datasets import Column
from etl.datasets.types import WordType
from etl.ingestion.transform.rules import Accepted, Group, Rules, Token, convert_none
from etl.ingestion.transform.tokens import NULL_FIELD, SEPARATOR, are_few, columns_of_rows, starts, suspect
from etl.ingestion.values import Misfit

_BOOLEANS = frozenset([b"null", b"true", b"false", b'"true"', b'"false"'])

_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_is_uuid = re.compile(_UUID).fullmatch
_is_uuid_token = re.compile(f'"{_UUID}"|null'.encode()).fullmatch
_HEX_AS_0 = bytes.maketrans(b"123456789abcdefABCDEF", b"0" * 21)
_UUID_FIELD = b'"00000000-0000-0000-0000-000000000000"' + SEPARATOR
_NO_UUIDS = re.compile(b"%b(?!%b|%b|\\Z)" % (SEPARATOR, _UUID_FIELD, NULL_FIELD)).finditer


def rules(_column: Column, type_: WordType) -> Rules:
    """Return the rules of a column of words."""
    match type_.name:
        case "boolean":
            return Rules(convert=_boolean, convert_all=convert_none, accept=_accept_booleans)
        case "uuid":
            return Rules(convert=_uuid, convert_all=_all_uuids, accept=_accept_uuids, group=_UUIDS)
        case _:
            assert_never(type_.name)


def _boolean(value: Any) -> str:
    if value is True or value == "true":
        return "t"
    if value is False or value == "false":
        return "f"
    raise Misfit("22P02", "expected true or false, got something else")


def _accept_booleans(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
    suspect(tokens, suspects, _BOOLEANS.__contains__)
    return tokens


def _uuid(value: Any) -> str:
    if isinstance(value, str) and _is_uuid(value):
        return value
    raise Misfit("22P02", "expected a UUID as 8-4-4-4-12 hexadecimal digits, got something else")


def _all_uuids(values: Sequence[Any]) -> Sequence[str] | None:
    try:
        return values if all(map(_is_uuid, values)) else None
    except TypeError:  # One is no text.
        return None


def _accept_uuids(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
    if not _are_uuids(_with_0(tokens)):
        suspect(tokens, suspects, _is_uuid_token)
    return tokens


def _with_0(rows: Sequence[Token]) -> bytes:
    """Return the fields, each with its separator, and 0 for each hexadecimal digit."""
    return SEPARATOR.join(rows).translate(_HEX_AS_0) + SEPARATOR


def _are_uuids(fields: bytes) -> bool:
    # They do not overlap: if all copies of both are as long as the whole, there is nothing else.
    size = len(_UUID_FIELD) * fields.count(_UUID_FIELD) + len(NULL_FIELD) * fields.count(NULL_FIELD)
    return size == len(fields)


def _accept_group_of_uuids(rows: Sequence[Token], width: int) -> Accepted | None:
    fields = _with_0(rows)
    if _are_uuids(fields):
        return rows, {}
    odd = columns_of_rows(starts(_NO_UUIDS(SEPARATOR + fields)), SEPARATOR + fields, width)
    return (rows, odd) if are_few(odd, rows) else None


_UUIDS = Group(name="uuid", accept=_accept_group_of_uuids)
