"""Values that are one word of a fixed form: their conversions, and the checks of their tokens. Pure."""

from collections.abc import Sequence
from typing import Any, assert_never

from etl.datasets import Column
from etl.datasets.types import WordType
from etl.ingestion.transform.rules import Rules, Token, convert_none
from etl.ingestion.transform.tokens import suspect
from etl.ingestion.values import Misfit

_BOOLEANS = frozenset([b"null", b"true", b"false", b'"true"', b'"false"'])


def rules(_column: Column, type_: WordType) -> Rules:
    """Return the rules of a column of words."""
    match type_.name:
        case "boolean":
            return Rules(convert=_boolean, convert_all=convert_none, accept=_accept_booleans)
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
