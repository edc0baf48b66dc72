"""The statements of a page: identifiers are quoted, and each value is a parameter that the server reads as its type."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from etl import queries
from etl.serving.filters import OPERATORS, STATES, Condition, PageRequest
from etl.serving.tables import Column, Table

_SQL = queries.load("serving")
_COMMA = sql.SQL(", ")
# What a spreadsheet would run as a formula begins with one of these.
_FORMULA = "^[=+\\-@\t\r\n|]"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A statement with its values; `given` are pairs of each value and the column whose type it must fit."""

    text: sql.Composed
    values: tuple[object, ...]
    given: tuple[tuple[str, Column], ...]


def of_page(request: PageRequest) -> Statement:
    """Return the statement that reads a page and one row more, which says whether there is a next page."""
    table = request.table
    conditions, values, given = _where(request)
    keys = [table.columns[name] for name in table.key]
    inner = [*request.columns, *(column for column in keys if column not in request.columns)]
    key = _COMMA.join(sql.SQL("{}::text").format(_of_page(column)) for column in keys)
    parts: dict[str, sql.Composable | int] = {
        "key": key,
        "rows": sql.Literal(request.limit),
        "columns": _COMMA.join(_quoted(column) for column in inner),
        "table": sql.Identifier(*table.aggregate.table.split(".")),
        "conditions": conditions,
        "order": _order(table, descending=request.descending),
        "limit": sql.Literal(request.limit + 1),
    }
    if request.format == "csv":
        parts["fields"] = _COMMA.join(_field(column, request) for column in request.columns)
        return Statement(text=_SQL["as_fields"].format(**parts), values=values, given=given)
    parts["line"] = _line(request, covers_inner=len(inner) == len(request.columns))
    return Statement(text=_SQL["page"].format(**parts), values=values, given=given)


def _quoted(column: Column) -> sql.Identifier:
    """Return the name of a column for a statement with values, in which a percent sign begins a placeholder."""
    return sql.Identifier(column.name.replace("%", "%%"))


def _of_page(column: Column) -> sql.Identifier:
    return sql.Identifier("page", column.name.replace("%", "%%"))


def _typed(column: Column, *, is_list: bool = False) -> sql.Composed:
    # The text is that of format_type, which quotes what must be quoted.
    return sql.SQL("%s::{}").format(sql.SQL((column.type + ("[]" if is_list else "")).replace("%", "%%")))


def _order(table: Table, *, descending: bool) -> sql.Composable:
    way = sql.SQL(" desc" if descending else "")
    return _COMMA.join(_quoted(table.columns[name]) + way for name in table.key)


def _where(request: PageRequest) -> tuple[sql.Composable, tuple[object, ...], tuple[tuple[str, Column], ...]]:
    """Return the conditions, their values, and each value with its column."""
    parts: list[sql.Composable] = [sql.SQL("true")]
    values: list[object] = []
    given: list[tuple[str, Column]] = []
    for condition in request.conditions:
        parts.append(_condition(condition))
        if condition.operator != "is":
            values.append(list(condition.values) if condition.operator == "in" else _value(condition))
            given += [(value, condition.column) for value in condition.values]
    if request.after is not None:
        keys = [request.table.columns[name] for name in request.table.key]
        way = sql.SQL("<" if request.descending else ">")
        parts.append(
            sql.SQL("({}) {} ({})").format(_COMMA.join(map(_quoted, keys)), way, _COMMA.join(map(_typed, keys)))
        )
        values += request.after
        given += zip(request.after, keys, strict=True)
    return sql.SQL(" and ").join(parts), tuple(values), tuple(given)


def _value(condition: Condition) -> str:
    [value] = condition.values
    return value.replace("*", "%") if condition.operator in {"like", "ilike"} else value


def _condition(condition: Condition) -> sql.Composable:
    column = _quoted(condition.column)
    if condition.operator == "in":
        compared = sql.SQL("{} = any({})").format(column, _typed(condition.column, is_list=True))
    elif condition.operator == "is":
        compared = sql.SQL("{} is {}").format(column, sql.SQL(STATES[condition.values[0]]))
    else:
        value: sql.Composable = _typed(condition.column)
        if condition.operator in {"like", "ilike"}:
            value = sql.SQL("%s")
        compared = sql.SQL("{} {} {}").format(column, sql.SQL(OPERATORS[condition.operator]), value)
    return sql.SQL("not ({})").format(compared) if condition.is_negated else compared


def _shown(column: Column, request: PageRequest) -> sql.Composable:
    """Return the value of a column as a client wants it."""
    pattern = "{}::text" if request.numbers_as_text and column.is_number else "{}"
    return sql.SQL(pattern).format(_of_page(column))


def _line(request: PageRequest, *, covers_inner: bool) -> sql.Composable:
    """Return the JSON of one row: an object, or an array."""
    if request.format == "columns":
        values = [
            sql.SQL("coalesce(to_json({})::text, 'null')").format(_shown(each, request)) for each in request.columns
        ]
        return sql.SQL("'[' || {} || ']'").format(sql.SQL(" || ',' || ").join(values))
    if covers_inner and not request.numbers_as_text:
        return sql.SQL("row_to_json(page)::text")
    named = [sql.SQL("{} as {}").format(_shown(each, request), _quoted(each)) for each in request.columns]
    return sql.SQL("(select row_to_json(shown) from (select {}) as shown)::text").format(_COMMA.join(named))


def _field(column: Column, request: PageRequest) -> sql.Composable:
    """Return the text of a field of CSV; for a spreadsheet a quote comes before a text that it would run."""
    if request.for_spreadsheet and not column.is_number and column.kind != "boolean":
        return sql.SQL("case when {0}::text ~ {1} then '''' || {0}::text else {0}::text end").format(
            _of_page(column), sql.Literal(_FORMULA)
        )
    return sql.SQL("{}::text").format(_of_page(column))


def csv_line(fields: Iterable[str | None]) -> str:
    """Return a line of CSV as COPY writes it: a null is nothing, an empty text is two quotation marks."""
    return ",".join(map(_csv_field, fields)) + "\r\n"


def _csv_field(text: str | None) -> str:
    if text is None:
        return ""
    if not text or any(character in text for character in ',"\r\n') or text == "\\.":
        return '"' + text.replace('"', '""') + '"'
    return text


def unfitting(given: Sequence[tuple[str, Column]]) -> tuple[sql.SQL, dict[str, list[str]]]:
    """Return the statement that finds the values that do not fit their type, with its values."""
    return _SQL["unfitting"], {
        "values": [value for value, _ in given],
        "types": [column.type for _, column in given],
    }
