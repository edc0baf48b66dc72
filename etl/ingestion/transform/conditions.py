"""The conditions of a table on tokens: whether an object becomes a row of it. Pure: the fast path."""

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

import msgspec

from etl.datasets import Condition
from etl.ingestion.transform.rules import Token
from etl.ingestion.transform.tokens import SEPARATOR, UNDECODABLE

_MOST_KEPT = 10_000


class TokenCondition(dict[bytes, bool | None]):
    """Whether each token is among the values of a condition; None: only the checked path can tell.

    A member that decides about tables has few different values: each is examined once.
    """

    def __init__(self, condition: Condition) -> None:
        super().__init__()
        values = condition.values
        self._texts = frozenset(value for value in values if isinstance(value, str))
        self._booleans = frozenset(b"true" if value else b"false" for value in values if isinstance(value, bool))
        self._numbers = frozenset(Decimal(str(value)) for value in values if not isinstance(value, str | bool))

    def __missing__(self, token: bytes) -> bool | None:
        """Examine a token, and keep the result."""
        if len(self) > _MOST_KEPT:
            self.clear()
        self[token] = result = self._holds(token)
        return result

    def _holds(self, token: bytes) -> bool | None:
        try:
            if token[:1] == b'"':
                return msgspec.json.decode(token, type=str) in self._texts
            if token[:1] in b"-0123456789":
                return bool(self._numbers) and Decimal(token.decode()) in self._numbers
        except (*UNDECODABLE, InvalidOperation):
            return None
        return token in self._booleans


def decisions(conditions: Sequence[TokenCondition], rows: Sequence[tuple[Token, ...]]) -> list[bool | None]:
    """Return for the tokens of each row whether all conditions hold."""
    if not rows:
        return []
    first, *others = (
        list(map(condition.__getitem__, SEPARATOR.join(tokens).split(SEPARATOR)))
        for condition, tokens in zip(conditions, zip(*rows, strict=True), strict=True)
    )
    return list(map(_all, first, *others)) if others else first


def _all(*found: bool | None) -> bool | None:
    return False if False in found else None if None in found else True
