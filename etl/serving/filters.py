"""Query strings as values: which columns, which rows, in which order, how many, after which row, in which format.

They are spelled as PostgREST spells them. Whatever cannot be asked is a problem that names what there is. Knows no
database: values are only checked by the server, which knows their types.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl

from etl.serving.problems import ProblemError
from etl.serving.tables import Column, Table

Format = Literal["json", "columns", "ndjson", "csv", "parquet", "arrow"]

FORMATS: dict[Format, str] = {
    "json": "application/json",
    "columns": "application/json",
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
}
COLUMNAR = frozenset({"parquet", "arrow"})
"""Formats of typed columns, which need the extra `parquet`."""
OPERATORS = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "like": "like", "ilike": "ilike"}
STATES = {"null": "null", "not_null": "not null", "true": "true", "false": "false", "unknown": "unknown"}
RESERVED = ("select", "order", "limit", "after", "format", "numbers", "for")

ROWS_OF_A_PAGE = 1_000
MAX_ROWS = 10_000
MAX_PARAMETERS = 100

# Operators by which an index gives a part of the rows.
_BOUNDS = frozenset({"eq", "gt", "gte", "lt", "lte", "in"})

# Words that the server reads as the time of the request. An answer is known by the version of its rows, and would be
# taken for the newest one on the next day.
_OF_NOW = re.compile("now|today|tomorrow|yesterday", re.IGNORECASE)

_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,"]*)')


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A condition on the values of a column: an operator of OPERATORS, `in` or `is`, with its values as texts."""

    column: Column
    operator: str
    values: tuple[str, ...]
    is_negated: bool = False


@dataclass(frozen=True, kw_only=True)
class PageRequest:
    """The rows that a client asks for; `after` is the key of the last row that it has."""

    table: Table
    columns: tuple[Column, ...]
    conditions: tuple[Condition, ...]
    descending: bool
    limit: int
    after: tuple[str, ...] | None
    format: Format
    numbers_as_text: bool
    for_spreadsheet: bool


def parse(table: Table, query: str, accept: str = "") -> PageRequest:
    """Return what a query string asks of a table; `accept` is the header of this name, for a format without a word.

    Raises ProblemError.
    """
    words: dict[str, str] = {}
    conditions: list[Condition] = []
    for name, value in pairs_of(query):
        if name in RESERVED:
            if name in words:
                raise ProblemError(422, f"{name} is given twice")
            words[name] = value
        else:
            conditions.append(condition_of(table, name, value))
    _require_index(table, conditions)
    descending = _direction(table, words["order"]) if "order" in words else False
    return PageRequest(
        table=table,
        columns=_columns(table, words["select"]) if "select" in words else tuple(table.columns.values()),
        conditions=tuple(conditions),
        descending=descending,
        limit=limit_of(words.get("limit"), ROWS_OF_A_PAGE, MAX_ROWS),
        after=(key_of(words["after"], table.name, len(table.key), descending=descending) if "after" in words else None),
        format=_format(words.get("format"), accept),
        numbers_as_text=_word("numbers", words.get("numbers"), "text"),
        for_spreadsheet=_word("for", words.get("for"), "spreadsheet"),
    )


def pairs_of(query: str) -> list[tuple[str, str]]:
    """Return the parameters of a query string.

    Raises ProblemError.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS, errors="strict")
    except UnicodeDecodeError:
        raise ProblemError(422, "expected UTF-8 in the query string") from None
    except ValueError:
        raise ProblemError(422, f"expected at most {MAX_PARAMETERS} parameters") from None
    if any("\x00" in name or "\x00" in value for name, value in pairs):
        raise ProblemError(422, "a parameter has a NUL character")
    return pairs


def condition_of(table: Table, name: str, text: str, words: Sequence[str] = RESERVED) -> Condition:
    """Return the condition that a parameter is; `words` are the parameters that are none.

    Raises ProblemError.
    """
    column = table.columns.get(name)
    if column is None:
        raise ProblemError(
            422,
            f"{table.name} has no column and no parameter {name!r}",
            columns=table.indexed,
            parameters=list(words),
        )
    negation, _, rest = text.partition(".")
    is_negated = negation == "not"
    operator, point, value = (rest if is_negated else text).partition(".")
    if not point or operator not in {*OPERATORS, "in", "is"}:
        raise ProblemError(
            422,
            f"expected {name}=OPERATOR.VALUE, such as {name}=eq.VALUE",
            operators=["not.OPERATOR", *OPERATORS, "in", "is"],
        )
    values = tuple(_elements(name, value)) if operator == "in" else (value,)
    if operator == "is" and (
        value not in STATES or (value in {"true", "false", "unknown"} and column.kind != "boolean")
    ):
        raise ProblemError(422, f"{name} cannot be asked for is.{value[:40]}", values=list(STATES))
    if column.is_time and any(map(_OF_NOW.search, values)):
        raise ProblemError(
            422,
            f"expected a fixed {column.type} as the value of {name}, and no word such as today",
            columns={name: column.type},
        )
    if operator in {"like", "ilike"} and not column.is_text:
        raise ProblemError(422, f"{operator} compares texts, and {name} is {column.type}")
    return Condition(column=column, operator=operator, values=values, is_negated=is_negated)


def _require_index(table: Table, conditions: Sequence[Condition]) -> None:
    """Let rows be chosen by columns that an index has. Of facts also by others, among the rows that an index gives."""
    others = [each.column.name for each in conditions if not each.column.is_indexed]
    if not others:
        return
    if not table.is_fact:
        raise ProblemError(422, f"rows cannot be chosen by {others[0]}, because no index has it", columns=table.indexed)
    if not any(each.column.is_indexed and each.operator in _BOUNDS and not each.is_negated for each in conditions):
        reason = f"no index has {others[0]}: choose the rows also by a column that an index has"
        raise ProblemError(422, reason, columns=table.indexed)


def _elements(name: str, text: str) -> Iterator[str]:
    """Yield the values of a list in parentheses; one with a comma or a parenthesis is in quotation marks."""
    if not (text.startswith("(") and text.endswith(")")):
        raise ProblemError(422, f"expected {name}=in.(VALUE,VALUE)")
    inner, place = text[1:-1], 0
    while inner:
        found = _ELEMENT.match(inner, place)
        if found is None or (found.end() < len(inner) and inner[found.end()] != ","):
            raise ProblemError(422, f"the list of {name} has a quotation mark without its other one")
        yield re.sub(r"\\(.)", r"\1", found[1]) if found[1] is not None else found[2]
        place = found.end() + 1
        if place > len(inner):
            return


def _columns(table: Table, text: str) -> tuple[Column, ...]:
    names = text.split(",")
    for name in names:
        if name not in table.columns:
            raise ProblemError(422, f"{table.name} has no column {name!r}", columns=list(table.columns))
    if len(set(names)) < len(names):
        raise ProblemError(422, "select names a column twice")
    return tuple(table.columns[name] for name in names)


def _direction(table: Table, text: str) -> bool:
    """Return whether rows come in descending order: pages follow the key, all of it in one direction."""
    parts = [part.partition(".") for part in text.split(",")]
    names, directions = tuple(name for name, _, _ in parts), {direction or "asc" for _, _, direction in parts}
    if names != table.key[: len(names)] or len(directions) > 1 or not directions <= {"asc", "desc"}:
        example = ",".join(f"{name}.desc" for name in table.key[:2])
        raise ProblemError(
            422,
            f"pages follow the key in one direction: expected its first columns, such as order={example}",
            key=list(table.key),
        )
    return directions == {"desc"}


def limit_of(text: str | None, default: int, most: int) -> int:
    """Return how many rows a page may have.

    Raises ProblemError.
    """
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= most:
        raise wrong("limit", f"expected a limit from 1 to {most}; the rest is on the next pages")
    return int(text)


def wrong(name: str, reason: str, **members: Any) -> ProblemError:
    """Return the problem of a wrong parameter."""
    return ProblemError(422, reason, parameters=[{"parameter": name, "reason": reason}], **members)


def _format(word: str | None, accept: str) -> Format:
    if word is not None:
        for name in FORMATS:
            if word == name:
                return name
        raise ProblemError(422, f"there is no format {word!r}", formats=list(FORMATS))
    kinds = list(_accepted(accept)) if accept else ["*/*"]
    offered: dict[str, Format] = {kind.partition(";")[0]: name for name, kind in FORMATS.items() if name != "columns"}
    offered["application/ndjson"] = "ndjson"
    for kind in kinds:
        if kind in offered:
            return offered[kind]
        if kind in {"application/*", "*/*", "text/html", "text/*"}:
            return "json"
    raise ProblemError(406, "no format of the header Accept is there", formats=list(FORMATS.values()))


def _accepted(accept: str) -> Iterator[str]:
    """Yield the media types of a header Accept, the most wanted first; a weight of 0 means: not this one."""
    weighted: list[tuple[float, str]] = []
    for part in accept.split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        given = [word[2:] for word in parameters if word.startswith("q=")]
        weight = float(given[0]) if given and re.fullmatch(r"[01](\.[0-9]{0,3})?", given[0]) else 1.0
        weighted.append((-weight, kind))
    for weight, kind in sorted(weighted, key=lambda pair: pair[0]):
        if weight < 0:
            yield kind


def _word(name: str, given: str | None, expected: str) -> bool:
    if given not in {None, expected}:
        raise ProblemError(422, f"expected {name}={expected}, or no {name}")
    return given == expected


def token_of(name: str, key: Sequence[Any], *, descending: bool) -> str:
    """Return the opaque token of the row of a table or a list with this key."""
    text = json.dumps([name, descending, list(key)], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def key_of(token: str, of: str, size: int, *, descending: bool) -> tuple[str, ...]:
    """Return the key in a token of the table or the list `of`.

    Raises ProblemError.
    """
    try:
        read = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        name, was_descending, key = read
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise wrong("after", "after is no token of a page") from None
    is_key = isinstance(key, list) and all(isinstance(value, str) and _is_sendable(value) for value in key)
    if not is_key or name != of or len(key) != size:
        raise wrong("after", f"after is no token of a page of {of} as it is now; begin with the first page")
    if was_descending is not descending:
        raise wrong("after", "after is a token of the other order")
    return tuple(key)


def _is_sendable(text: str) -> bool:
    """Return whether the server can read a text: it has no NUL, and no half of a character."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
