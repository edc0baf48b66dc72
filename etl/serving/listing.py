"""The lists for operators as values: which runs or files of the failed store a query string asks for.

Filters are spelled as for rows. A value without an operator must be equal. Knows no database.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from fastapi import Request

from etl.ingestion.ledger.failures import State, StoredFailure
from etl.ingestion.ledger.history import RunStatus
from etl.serving import filters
from etl.serving.filters import OPERATORS, Condition, wrong
from etl.serving.tables import Column, Table, as_aggregate
from etl.settings import Mode

MOST = 1_000
_WORDS = ("limit", "after")
_OPERATOR = re.compile(rf"(not\.)?({'|'.join([*OPERATORS, 'in', 'is'])})\.")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A list: its columns with filters, the values of those that have few, and how many entries a page has."""

    table: Table
    choices: Mapping[str, tuple[str, ...]]
    size: int
    descending: bool
    synonyms: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Short words: the column and the operator of each."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The entries that a client asks for; `after` is the key of the last one that it has."""

    conditions: tuple[Condition, ...]
    names: tuple[str, ...]
    """The parameter of each condition."""
    limit: int
    after: tuple[str, ...] | None

    @property
    def given(self) -> list[tuple[str, Column, str]]:
        """Each value, with the column whose type it must fit and the name of its parameter."""
        pairs = zip(self.conditions, self.names, strict=True)
        return [(value, each.column, name) for each, name in pairs if each.operator != "is" for value in each.values]


def _table(name: str, key: tuple[str, ...], columns: Mapping[str, tuple[str, str]]) -> Table:
    found = {
        column: Column(name=column, type=kind, comment=comment, is_indexed=True)
        for column, (kind, comment) in columns.items()
    }
    return Table(aggregate=as_aggregate(name, key, ""), columns=found, has_policies=False, is_fact=True)


RUNS = Kind(
    table=_table(
        "runs",
        ("number",),
        {
            "run": ("text", "name of the run"),
            "dataset": ("text", "name of the dataset"),
            "status": ("text", "status of the run now"),
            "mode": ("text", "mode of the load"),
            "started_at": ("timestamp with time zone", "begin of the run"),
        },
    ),
    choices={"status": get_args(RunStatus), "mode": get_args(Mode)},
    size=50,
    descending=True,
    synonyms={"since": ("started_at", "gte")},
)

FAILURES = Kind(
    table=_table(
        "failures",
        ("created_at", "id"),
        {
            "id": ("text", "name of the file"),
            "run": ("text", "run that refused the records"),
            "dataset": ("text", "name of the dataset"),
            "kind": ("text", "rejected: a fault of the data; failed: the batch could not load"),
            "state": ("text", "state of the file"),
            "sqlstate": ("text", "SQLSTATE of the first fault"),
            "created_at": ("timestamp with time zone", "when the records were refused"),
        },
    ),
    choices={"state": get_args(State), "kind": ("rejected", "failed")},
    size=200,
    descending=False,
)


def asked(kind: Kind, query: str) -> Asked:
    """Return what a query string asks of a list.

    Raises ProblemError, also because of an unknown name.
    """
    words: dict[str, str] = {}
    conditions: dict[Condition, str] = {}
    for name, value in filters.pairs_of(query):
        if name in _WORDS:
            if name in words:
                raise wrong(name, f"{name} is given twice")
            words[name] = value
            continue
        column, operator = kind.synonyms.get(name, (name, "eq"))
        text = value if _OPERATOR.match(value) and name not in kind.synonyms else f"{operator}.{value}"
        condition = filters.condition_of(kind.table, column, text, [*_WORDS, *kind.synonyms])
        _require_choice(kind, name, condition)
        conditions[condition] = name
    key = kind.table.key
    return Asked(
        conditions=tuple(conditions),
        names=tuple(conditions.values()),
        limit=filters.limit_of(words.get("limit"), kind.size, MOST),
        after=(
            filters.key_of(words["after"], kind.table.name, len(key), descending=kind.descending)
            if "after" in words
            else None
        ),
    )


def _require_choice(kind: Kind, name: str, condition: Condition) -> None:
    """Raise ProblemError for a value that no entry can have."""
    choices = kind.choices.get(condition.column.name)
    if choices and condition.operator in {"eq", "neq", "in"} and not set(condition.values) <= set(choices):
        raise wrong(name, f"expected one of {', '.join(choices)} as {name}", values=list(choices))


def number_after(asked: Asked) -> int | None:
    """Return the number of the last run that the client has.

    Raises ProblemError.
    """
    if asked.after is None:
        return None
    [text] = asked.after
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise wrong("after", "after is no token of a page")
    return int(text)


def token_of(kind: Kind, key: Sequence[Any]) -> str:
    """Return the token of the entry with this key."""
    return filters.token_of(kind.table.name, [str(value) for value in key], descending=kind.descending)


def key_of_failure(failure: StoredFailure) -> tuple[str, str]:
    """Return the place of a file in the list of files."""
    return failure.created_at.isoformat(), failure.id


def parameters(kind: Kind) -> dict[str, Any]:
    """Return the description of the parameters of a list, for OpenAPI."""
    operators = ", ".join([*OPERATORS, "in", "is", "not.OPERATOR"])
    columns = {
        name: f"{column.comment}, as VALUE or OPERATOR.VALUE ({operators})"
        for name, column in kind.table.columns.items()
    }
    short = {name: f"the same as {column}={operator}.VALUE" for name, (column, operator) in kind.synonyms.items()}
    found = [_parameter(name, text, {"type": "string"}) for name, text in {**columns, **short}.items()]
    limit = {"type": "integer", "minimum": 1, "maximum": MOST, "default": kind.size}
    after = _parameter("after", "the token `next` of the page before", {"type": "string", "minLength": 1})
    return {"parameters": [*found, _parameter("limit", "entries of a page; more is an error", limit), after]}


def _parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def takes_no_parameter(request: Request) -> None:
    """Refuse a parameter that the address does not have: it would be passed over.

    Raises ProblemError.
    """
    for name in request.query_params:
        raise wrong(name[:100], "this address has no parameters")
