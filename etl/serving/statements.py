"""The statements of a page: identifiers are quoted, and each value is a parameter that the server reads as its type.

The server makes the text of a page, so that a page costs this process little. The statements are kept, because to
compose one of forty columns takes longer than to run it for one row.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from etl import queries
from etl.queries import Conditions
from etl.serving.filters import COLUMNAR, OPERATORS, STATES, Condition, PageRequest
from etl.serving.tables import Column, Table

_SQL = queries.load("serving")
_COMMA = sql.SQL(", ")
# What a spreadsheet would run as a formula begins with one of these.
_FORMULA = "^[=+\\-@\t\r\n|]"
_SEPARATORS = {"json": ",", "columns": ",", "ndjson": "\n", "csv": "\r\n"}
_FRESHNESS = sql.SQL("analytics.freshness")
_MOST_KEPT = 500
_VALUE = sql.SQL("%s")

_kept: OrderedDict[object, bytes] = OrderedDict()


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A statement with its values; `given` are pairs of each value and the column whose type it must fit."""

    text: bytes
    values: tuple[object, ...]
    given: tuple[tuple[str, Column], ...]


def of_page(request: PageRequest) -> Statement:
    """Return the statement that reads the freshness of an aggregate and a page of it."""
    values, given = _values(request)
    shape = _shape(request)
    text = _kept.get(shape)
    if text is None:
        text = _kept[shape] = _composed(request).as_bytes()
        if len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
    else:
        _kept.move_to_end(shape)
    return Statement(text=text, values=values, given=given)


def _shape(request: PageRequest) -> object:
    """Return what the text of the statement depends on: all of a request but its values."""
    return (
        request.table.mark,
        tuple(column.name for column in request.columns),
        tuple(
            (each.column.name, each.operator, each.is_negated, each.values if each.operator == "is" else None)
            for each in request.conditions
        ),
        request.after is None,
        request.descending,
        request.limit,
        request.format,
        request.numbers_as_text,
        request.for_spreadsheet,
    )


def _composed(request: PageRequest) -> sql.Composed:
    table = request.table
    is_columnar = request.format in COLUMNAR
    keys = [table.columns[name] for name in table.key]
    inner = [*request.columns, *(column for column in keys if column not in request.columns)]
    parts: dict[str, sql.Composable] = (
        {"fields": _COMMA.join(map(_value_of, request.columns))}
        if is_columnar
        else {
            "separator": _literal(_SEPARATORS[request.format]),
            "line": _line(request, covers_inner=len(inner) == len(request.columns)),
        }
    )
    return _SQL["page_of_values" if is_columnar else "page"].format(
        **parts,
        freshness=_SQL["no_freshness"].format(aggregate=_literal(table.name)) if table.is_fact else _FRESHNESS,
        aggregate=_literal(table.name),
        key=_COMMA.join(sql.SQL("{}::text").format(_of_page(column)) for column in keys),
        rows=sql.Literal(request.limit),
        columns=_COMMA.join(_quoted(column) for column in inner),
        table=sql.Identifier(*table.aggregate.table.replace("%", "%%").split(".")),
        conditions=_where(request),
        order=_order(table, descending=request.descending),
        limit=sql.Literal(request.limit + 1),
    )


def _literal(text: str) -> sql.Literal:
    """Return a text for a statement with values, in which a percent sign begins a placeholder."""
    return sql.Literal(text.replace("%", "%%"))


def _quoted(column: Column) -> sql.Identifier:
    return sql.Identifier(column.name.replace("%", "%%"))


def _of_page(column: Column) -> sql.Identifier:
    return sql.Identifier("page", column.name.replace("%", "%%"))


def _typed(column: Column, value: sql.Composable = _VALUE, *, is_list: bool = False) -> sql.Composed:
    # The text is that of format_type, which quotes what must be quoted.
    name = column.compared_type + ("[]" if is_list else "")
    return sql.SQL("{}::{}").format(value, sql.SQL(name.replace("%", "%%")))


def _order(table: Table, *, descending: bool) -> sql.Composable:
    way = sql.SQL(" desc" if descending else "")
    return _COMMA.join(_quoted(table.columns[name]) + way for name in table.key)


def _values(request: PageRequest) -> tuple[tuple[object, ...], tuple[tuple[str, Column], ...]]:
    """Return the values of the conditions in their order, and each value with its column."""
    values: list[object] = []
    given: list[tuple[str, Column]] = []
    for condition in request.conditions:
        if condition.operator != "is":
            values.append(list(condition.values) if condition.operator == "in" else _value(condition))
            given += [(value, condition.column) for value in condition.values]
    if request.after is not None:
        values += request.after
        columns = [request.table.columns[name] for name in request.table.key]
        given += zip(request.after, columns, strict=True)
    return tuple(values), tuple(given)


def _value(condition: Condition) -> str:
    [value] = condition.values
    return value.replace("*", "%") if condition.operator in {"like", "ilike"} else value


def _where(request: PageRequest) -> sql.Composable:
    parts: list[sql.Composable] = [sql.SQL("true"), *map(_condition, request.conditions)]
    if request.after is not None:
        keys = [request.table.columns[name] for name in request.table.key]
        way = sql.SQL("<" if request.descending else ">")
        values = _COMMA.join(map(_typed, keys))
        parts.append(sql.SQL("({}) {} ({})").format(_COMMA.join(map(_quoted, keys)), way, values))
    return sql.SQL(" and ").join(parts)


def _condition(condition: Condition, value: sql.Composable = _VALUE) -> sql.Composable:
    column = _quoted(condition.column)
    if condition.operator == "in":
        compared = sql.SQL("{} = any({})").format(column, _typed(condition.column, value, is_list=True))
    elif condition.operator == "is":
        compared = sql.SQL("{} is {}").format(column, sql.SQL(STATES[condition.values[0]]))
    else:
        if condition.operator not in {"like", "ilike"}:
            value = _typed(condition.column, value)
        compared = sql.SQL("{} {} {}").format(column, sql.SQL(OPERATORS[condition.operator]), value)
    return sql.SQL("not ({})").format(compared) if condition.is_negated else compared


def of_conditions(conditions: Sequence[Condition]) -> Conditions:
    """Return conditions on the columns of a list, with their values by name."""
    named = {f"given_{number}": each for number, each in enumerate(conditions)}
    parts = [_condition(each, sql.Placeholder(name)) for name, each in named.items()]
    values = {
        name: list(each.values) if each.operator == "in" else _value(each)
        for name, each in named.items()
        if each.operator != "is"
    }
    return Conditions(text=sql.SQL(" and ").join([sql.SQL("true"), *parts]), values=values)


def _shown(column: Column, request: PageRequest) -> sql.Composable:
    """Return the value of a column as a client wants it."""
    pattern = "{}::text" if request.numbers_as_text and column.is_number else "{}"
    return sql.SQL(pattern).format(_of_page(column))


def _value_of(column: Column) -> sql.Composable:
    """Return the value of a column for a typed format; a time that no other program knows is null."""
    if column.kind in {"date", "timestamp with time zone"}:
        # Python knows the years 1 to 9999.
        pattern = "case when {0} >= '0001-01-01' and {0} < '10000-01-01' then {0} end"
        return sql.SQL(pattern).format(_of_page(column))
    if column.is_number or column.kind == "boolean":
        return _of_page(column)
    return sql.SQL("{}::text").format(_of_page(column))


def _line(request: PageRequest, *, covers_inner: bool) -> sql.Composable:
    """Return the text of one row."""
    if request.format == "csv":
        return sql.SQL(" || ',' || ").join(_field(column, request) for column in request.columns)
    if request.format == "columns":
        pattern = sql.SQL("coalesce(to_json({})::text, 'null')")
        values = [pattern.format(_shown(column, request)) for column in request.columns]
        return sql.SQL("'[' || {} || ']'").format(sql.SQL(" || ',' || ").join(values))
    if covers_inner and not request.numbers_as_text:
        return sql.SQL("row_to_json(page)::text")
    named = [sql.SQL("{} as {}").format(_shown(each, request), _quoted(each)) for each in request.columns]
    return sql.SQL("(select row_to_json(shown) from (select {}) as shown)::text").format(_COMMA.join(named))


def _field(column: Column, request: PageRequest) -> sql.Composable:
    """Return a field of CSV as COPY writes it: a null is nothing, an empty text is two quotation marks.

    For a spreadsheet a quote comes before a text that it would run.
    """
    text: sql.Composable = sql.SQL("{}::text").format(_of_page(column))
    if column.is_number or column.kind in {"boolean", "date"}:
        return sql.SQL("coalesce({}, '')").format(text)
    if request.for_spreadsheet:
        text = sql.SQL("case when {0} ~ {1} then '''' || {0} else {0} end").format(text, sql.Literal(_FORMULA))
    return sql.SQL(
        """coalesce(case when {0} ~ '[",\\r\\n]' or {0} in ('', '\\.') then '"' || replace({0}, '"', '""') || '"'"""
        """ else {0} end, '')"""
    ).format(sql.SQL("({})").format(text))


def unfitting(given: Sequence[tuple[str, Column]]) -> tuple[sql.SQL, dict[str, list[str]]]:
    """Return the statement that finds the values that do not fit their type, with its values."""
    return _SQL["unfitting"], {
        "values": [value for value, _ in given],
        "types": [column.compared_type for _, column in given],
    }
