"""Rows of an aggregate over HTTP: the same rows as in the table, in pages, in each format."""

import csv
import gzip
import io
import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

import httpx
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql
from pyarrow import parquet

from etl.precalculation.catalogue import choose, read_all
from etl.serving import filters, statements
from etl.serving.problems import ProblemError
from etl.serving.tables import Column, Table
from tests.support.site import Site

SCORES = "/v1/aggregates/carrier_scorecard/rows"
DAYS = "/v1/aggregates/daily_shipments/rows"


def _pages(client: httpx.Client, path: str, **query: str) -> list[httpx.Response]:
    """Follow the links to the last page."""
    pages = [client.get(path, params=query)]
    while link := pages[-1].links.get("next"):
        pages.append(client.get(link["url"]))
    assert {page.status_code for page in pages} == {200}
    return pages


def _table(demo: Site, name: str, columns: str = "*", order: str = "1, 2, 3") -> list[tuple[Any, ...]]:
    query = f"select {columns} from analytics.{name} order by {order}"  # noqa: S608 - names of a test
    return demo.ask(sql.SQL(query))  # type: ignore[arg-type]


def test_pages_have_each_row_of_the_table_once(client: httpx.Client, demo: Site) -> None:
    """Pages in each format and direction have the rows of the table, in the order of its key, with every digit."""
    [(expected, count)] = demo.ask(
        "select json_agg(d order by day, carrier, service_level)::text, count(*) from analytics.daily_shipments d"
    )
    wanted = json.loads(expected, parse_float=Decimal)
    pages = _pages(client, DAYS, limit="200")
    assert len(pages) == -(-count // 200) > 2
    rows = [row for page in pages for row in json.loads(page.text, parse_float=Decimal)["rows"]]
    assert rows == wanted
    down = _pages(client, DAYS, limit="300", order="day.desc")
    assert [row for page in down for row in json.loads(page.text, parse_float=Decimal)["rows"]] == wanted[::-1]
    lines = [line for page in _pages(client, DAYS, limit="500", format="ndjson") for line in page.text.splitlines()]
    assert [json.loads(line, parse_float=Decimal) for line in lines] == wanted
    columns = [json.loads(page.text, parse_float=Decimal) for page in _pages(client, DAYS, format="columns")]
    assert [dict(zip(page["columns"], row, strict=True)) for page in columns for row in page["rows"]] == wanted


def test_csv_is_as_copy_writes_it(client: httpx.Client, demo: Site) -> None:
    """A page as CSV has the bytes of COPY but for the ends of lines; compressed, it is the same."""
    with (
        demo.connection.cursor() as cursor,
        cursor.copy(
            "copy (select * from analytics.daily_shipments order by day, carrier, service_level limit 300)"
            " to stdout (format csv, header true)"
        ) as blocks,
    ):
        expected = b"".join(map(bytes, blocks)).decode()
    got = client.get(DAYS, params={"limit": "300"}, headers={"Accept": "text/csv", "Accept-Encoding": "identity"})
    assert got.headers["content-type"] == "text/csv; charset=utf-8"
    assert "content-encoding" not in got.headers
    assert got.text.replace("\r\n", "\n") == expected
    compressed = client.get(DAYS, params={"limit": "300"}, headers={"Accept": "text/csv", "Accept-Encoding": "gzip"})
    assert compressed.headers["content-encoding"] == "gzip"
    assert compressed.text == got.text


def test_parquet_and_arrow_have_the_values_with_their_types(client: httpx.Client, demo: Site) -> None:
    """Typed pages have the rows of the table with every digit. Comments are metadata; pages have a link."""
    names = "day, carrier, service_level, count_shipments, sum_weight_kg"
    wanted = _table(demo, "daily_shipments", names)
    pages = _pages(client, DAYS, limit="500", select=names.replace(" ", ""), format="parquet")
    tables = [parquet.read_table(io.BytesIO(page.content)) for page in pages]
    assert len(pages) > 1
    assert [tuple(row.values()) for table in tables for row in table.to_pylist()] == wanted
    assert pages[0].headers["content-type"] == "application/vnd.apache.parquet"
    assert "carrier" in str(tables[0].schema.field("carrier").metadata[b"comment"])
    streams = _pages(client, DAYS, limit="700", select=names.replace(" ", ""), format="arrow", order="day.desc")
    rows = [row for page in streams for row in pa.ipc.open_stream(page.content).read_all().to_pylist()]
    assert [tuple(row.values()) for row in rows] == wanted[::-1]
    none = client.get(DAYS, params={"day": "gte.2999-01-01"}, headers={"Accept": "application/vnd.apache.parquet"})
    assert parquet.read_table(io.BytesIO(none.content)).num_rows == 0


def test_select_order_and_numbers_as_text(client: httpx.Client, demo: Site) -> None:
    """Only the columns that are selected come, in their order; numbers come as texts where that is asked for."""
    query = {"select": "on_time_share,carrier", "order": "month.desc,carrier.desc", "limit": "5", "numbers": "text"}
    got = client.get(SCORES, params=query).json()
    assert [list(row) for row in got["rows"]] == [["on_time_share", "carrier"]] * 5
    expected = _table(demo, "carrier_scorecard", "on_time_share::text, carrier", "month desc, carrier desc limit 5")
    assert [tuple(row.values()) for row in got["rows"]] == expected


def test_filters_choose_the_rows_that_sql_chooses(client: httpx.Client, demo: Site) -> None:
    """Each operator means what it means in SQL; several conditions hold together."""
    carriers = [name for (name,) in _table(demo, "carrier_scorecard", "distinct carrier", "1")]
    quoted = ",".join(f'"{name}"' for name in carriers[:2])
    cases: list[tuple[list[tuple[str, str]], str]] = [
        ([("month", "gte.2024-06-01"), ("month", "lt.2024-09-01")], "month >= '2024-06-01' and month < '2024-09-01'"),
        ([("carrier", f"eq.{carriers[0]}")], f"carrier = '{carriers[0]}'"),
        ([("carrier", f"neq.{carriers[0]}")], f"carrier <> '{carriers[0]}'"),
        ([("carrier", f"in.({quoted})")], f"carrier in ('{carriers[0]}', '{carriers[1]}')"),
        ([("carrier", f"not.in.({quoted})")], f"carrier not in ('{carriers[0]}', '{carriers[1]}')"),
        ([("carrier", "ilike.*E*")], "carrier ilike '%E%'"),
        ([("carrier", "like.*e"), ("month", "lte.2024-03-01")], "carrier like '%e' and month <= '2024-03-01'"),
        ([("carrier", "is.null")], "carrier is null"),
        ([("carrier", "not.is.null"), ("month", "gt.2025-01-01")], "carrier is not null and month > '2025-01-01'"),
    ]
    for query, condition in cases:
        got = client.get(SCORES, params=[*query, ("select", "month,carrier")])
        assert got.status_code == 200, got.text
        expected = demo.ask(
            sql.SQL(f"select month::text, carrier from analytics.carrier_scorecard where {condition} order by 1, 2")  # type: ignore[arg-type]  # noqa: S608 - a test
        )
        assert [tuple(row.values()) for row in got.json()["rows"]] == expected, condition


@pytest.mark.parametrize(
    ("query", "status", "members"),
    [
        ("carier=eq.x", 422, {"columns": ["month", "carrier"]}),
        ("count_shipments=gt.3", 422, {"columns": ["month", "carrier"]}),
        ("month=2024-01-01", 422, {}),
        ("month=eq.yesterday-ish", 422, {"columns": {"month": "date"}}),
        ("month=in.(2024-01-01,x)", 422, {"columns": {"month": "date"}}),
        ("month=eq.today", 422, {}),
        ("month=not.lte.NOW", 422, {}),
        ("month=in.(2024-01-01,%20Tomorrow)", 422, {}),
        ("month=like.2024*", 422, {}),
        ("carrier=is.true", 422, {}),
        ('carrier=in.("x)', 422, {}),
        ("limit=0", 422, {}),
        ("limit=10001", 422, {}),
        ("limit=1&limit=2", 422, {}),
        ("order=carrier", 422, {"key": ["month", "carrier"]}),
        ("order=month.desc,carrier.asc", 422, {"key": ["month", "carrier"]}),
        ("select=month,nothing", 422, {}),
        ("select=month,month", 422, {}),
        ("offset=5", 422, {}),
        ("after=abc", 422, {}),
        ("after=bnVsbA", 422, {}),
        ("format=xml", 422, {"formats": ["json", "columns", "ndjson", "csv", "parquet", "arrow"]}),
        ("numbers=words", 422, {}),
        ("carrier=eq.%00", 422, {}),
        ("carrier=eq.%ff", 422, {}),
        ("&".join(["carrier=eq.x"] * 101), 422, {}),
    ],
)
def test_what_cannot_be_asked_is_a_problem_with_the_names_there_are(
    client: httpx.Client, query: str, status: int, members: dict[str, Any]
) -> None:
    """A wrong word is never an empty list: the answer is a problem document that says what there is."""
    got = client.get(f"{SCORES}?{query}")
    assert (got.status_code, got.headers["content-type"]) == (status, "application/problem+json")
    problem = got.json()
    assert problem["status"] == status
    assert len(problem["detail"]) > 10
    assert {name: problem[name] for name in members} == members


def test_a_token_is_of_one_table_and_one_order(client: httpx.Client) -> None:
    """A token of another table, or of the other direction, is a problem and no wrong page."""
    token = client.get(SCORES, params={"limit": "1"}).json()["next"]
    assert client.get(SCORES, params={"limit": "1", "after": token}).status_code == 200
    assert client.get(SCORES, params={"limit": "1", "after": token, "order": "month.desc"}).status_code == 422
    assert client.get("/v1/aggregates/vehicle_days/rows", params={"after": token}).status_code == 422


def test_no_format_that_a_client_takes_is_a_problem(client: httpx.Client) -> None:
    """The format of Accept that is there and wanted most is sent; if none is, the problem names them."""
    taken = client.get(SCORES, params={"limit": "1"}, headers={"Accept": "image/png, application/x-ndjson;q=0.5"})
    assert taken.headers["content-type"] == "application/x-ndjson"
    for accept, kind in (
        ("application/json;q=0.1, text/csv", "text/csv; charset=utf-8"),
        ("text/csv;q=0, */*;q=0.1", "application/json"),
        ("text/csv;q=x", "text/csv; charset=utf-8"),
    ):
        assert client.get(SCORES, headers={"Accept": accept}).headers["content-type"] == kind
    for encoding, expected in (("gzip;q=0", None), ("br, gzip; q=0.000", None), ("gzip;q=0.5", "gzip")):
        for path in (SCORES, "/"):
            assert client.get(path, headers={"Accept-Encoding": encoding}).headers.get("content-encoding") == expected
    refused = client.get(SCORES, headers={"Accept": "image/png"})
    assert (refused.status_code, "text/csv; charset=utf-8" in refused.json()["formats"]) == (406, True)


def test_a_value_is_compared_as_it_is(demo: Site) -> None:
    """A value that is longer or finer than its column allows is not cut or rounded first: it equals no row."""
    with demo.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "alter table analytics.carrier_scorecard add code character(2) default 'DE', add word varchar(2) default"
            " 'DE', add part numeric(6, 2) default 1.00, add at timestamptz(0) default '2026-01-01T00:00:00Z'"
        )
        table = _of(connection, "carrier_scorecard")
        for query, has_rows in (
            ("code=eq.DE", True),
            ("code=eq.DEU", False),
            ("word=in.(DE)", True),
            ("word=in.(DEU,DEN)", False),
            ("part=lt.1.004", True),
            ("part=eq.1.004", False),
            ("at=lt.2026-01-01T00:00:00.4Z", True),
            ("at=eq.2026-01-01T00:00:00.4Z", False),
        ):
            statement = statements.of_page(filters.parse(table, f"{query}&limit=1&select=month"))
            [(_, _, body, _)] = connection.execute(statement.text, statement.values).fetchall()
            assert bool(body) == has_rows, query


def test_an_unknown_aggregate_is_a_problem_with_the_names(client: httpx.Client) -> None:
    """The names of the aggregates come with the problem."""
    got = client.get("/v1/aggregates/carier_scorecard/rows")
    assert (got.status_code, "carrier_scorecard" in got.json()["aggregates"]) == (404, True)


def _served(name: str = "lane_reliability", kind: str = "text") -> Table:
    (aggregate,) = choose([name])
    columns = {
        column: Column(name=column, type=kind, comment=comment, is_indexed=True)
        for column, comment in aggregate.columns
    }
    return Table(aggregate=aggregate, columns=columns, has_policies=False)


def test_pages_are_read_in_the_order_of_the_primary_key(demo: Site) -> None:
    """Each page of each aggregate, in either direction and after any row, is read from its key without sorting."""
    with demo.connect() as connection:
        connection.execute("set enable_seqscan = off; set enable_bitmapscan = off")
        for aggregate in read_all():
            rows = connection.execute(
                "select attname, format_type(atttypid, atttypmod) from pg_attribute"
                " where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped",
                [aggregate.table],
            ).fetchall()
            columns = {name: Column(name=name, type=kind, comment="", is_indexed=True) for name, kind in rows}
            table = Table(aggregate=aggregate, columns=columns, has_policies=False)
            samples = {
                "integer": "7",
                "bigint": "7",
                "date": "2024-05-01",
                "boolean": "true",
                "timestamp with time zone": "2024-05-01",
            }
            key = [samples.get(columns[name].type, "x") for name in aggregate.key]
            for descending in (False, True):
                token = filters.token_of(table.name, key, descending=descending)
                order = f"&order={aggregate.key[0]}.desc" if descending else ""
                statement = statements.of_page(filters.parse(table, f"limit=5&after={token}{order}"))
                plan = connection.execute(b"explain " + statement.text, statement.values).fetchall()
                text = "\n".join(line for (line,) in plan)
                assert f"using {aggregate.name}_pkey" in text, text
                assert "Sort" not in text, text


def test_a_spreadsheet_runs_no_text_as_a_formula() -> None:
    """For a spreadsheet a quote comes before texts that it would run, and never before a number."""
    table = _served()
    asked = filters.parse(table, "format=csv&for=spreadsheet&select=origin_city")
    text = statements.of_page(asked).text.decode()
    assert "then ''''" in text
    exact = statements.of_page(filters.parse(table, "format=csv&select=origin_city"))
    assert "then ''''" not in exact.text.decode()
    numbers = filters.parse(_served(kind="numeric"), "format=csv&for=spreadsheet&select=origin_city")
    assert "then ''''" not in statements.of_page(numbers).text.decode()


def test_a_formula_comes_as_a_text(client: httpx.Client, demo: Site) -> None:
    """CSV is exact; with `for=spreadsheet` the same field begins with a quote."""
    with demo.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute("update analytics.carrier_scorecard set carrier = '=1+' || carrier")
        for words, begin in (("", "=1+"), ("&for=spreadsheet", "'=1+")):
            table = _of(connection, "carrier_scorecard")
            statement = statements.of_page(filters.parse(table, f"format=csv&select=carrier,month&limit=1{words}"))
            body = bytes(connection.execute(statement.text, statement.values).fetchall()[0][2]).decode()
            assert body.startswith(begin)
            assert body.endswith(",2024-01-01")


def _of(connection: Any, name: str) -> Table:
    (aggregate,) = choose([name])
    rows = connection.execute(
        "select attname, format_type(atttypid, atttypmod) from pg_attribute"
        " where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped",
        [aggregate.table],
    ).fetchall()
    columns = {name: Column(name=name, type=kind, comment="", is_indexed=True) for name, kind in rows}
    return Table(aggregate=aggregate, columns=columns, has_policies=False)


@given(text=st.text(max_size=60), operator=st.sampled_from(["eq", "neq", "gt", "in", "like", "is", "not.eq", ""]))
@example(text="x'); drop table analytics.carrier_scorecard; --", operator="eq")
@example(text='("a\\"),(b")', operator="in")
@example(text="%s %(a)s {} \\", operator="like")
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_value_is_a_part_of_a_statement(demo: Site, text: str, operator: str) -> None:
    """Whatever a value is, the statement has the same text as for any other value, and the server runs it."""
    table = _of(demo.connection, "carrier_scorecard")
    try:
        asked = filters.parse(table, str(httpx.QueryParams({"carrier": f"{operator}.{text}", "limit": "3"})))
    except ProblemError:
        return
    statement = statements.of_page(asked)
    if operator == "eq":
        other = statements.of_page(filters.parse(table, "carrier=eq.x&limit=3"))
        assert statement.text == other.text
    demo.connection.execute(statement.text, statement.values).fetchall()


@given(query=st.text(max_size=80))
@settings(max_examples=60, deadline=None)
def test_any_query_string_is_read_or_is_a_problem(query: str) -> None:
    """No query string ends the service by an error of its own."""
    with suppress(ProblemError):
        filters.parse(_served(), query)


def test_facts_are_read_like_aggregates_and_never_kept(client: httpx.Client, demo: Site) -> None:
    """From a row of an aggregate one gets to its facts: the same filters, pages and formats, without a version."""
    path = "/v1/facts/logistics.shipments"
    pages = _pages(client, path, limit="300", select="shipment_id,carrier,weight_kg")
    rows = [tuple(row.values()) for page in pages for row in json.loads(page.text, parse_float=Decimal)["rows"]]
    wanted = demo.ask("select shipment_id, carrier, weight_kg from logistics.shipments order by 1")
    assert [(key, carrier, weight) for key, carrier, weight in rows] == wanted
    assert len(pages) > 2
    assert "etag" not in pages[0].headers
    assert pages[0].headers["cache-control"] == "no-store"
    one = client.get(path, params={"shipment_id": f"eq.{wanted[5][0]}", "format": "csv", "select": "shipment_id"})
    assert one.text == f"shipment_id\r\n{wanted[5][0]}\r\n"
    listed = {each["name"]: each for each in client.get("/v1/facts").json()["facts"]}
    assert listed["logistics.shipments"]["key"] == ["shipment_id"]
    filters_of = {column["name"]: column["is_filter"] for column in listed["logistics.shipments"]["columns"]}
    assert (filters_of["created_at"], filters_of["carrier"]) == (True, False)
    for also in ({}, {"shipment_id": "neq.X"}, {"shipment_id": "not.eq.X"}):
        assert client.get(path, params={"weight_kg": "gt.3", **also}).status_code == 422
    assert client.get(DAYS, params={"count_shipments": "gt.3", "day": "gte.2025-01-01"}).status_code == 422
    chosen = client.get(path, params={"carrier": f"eq.{wanted[5][1]}", "created_at": "gte.2025-06-01", "limit": "9999"})
    counted = "select count(*) from logistics.shipments where carrier = %s and created_at >= '2025-06-01'"
    assert [(len(chosen.json()["rows"]),)] == demo.ask(counted, [wanted[5][1]])
    refused = client.get(path, params={"weight_kg": "gt.3"})
    assert (refused.status_code, "shipment_id" in refused.json()["columns"]) == (422, True)
    unknown = client.get("/v1/facts/etl.runs")
    assert (unknown.status_code, "logistics.shipments" in unknown.json()["tables"]) == (404, True)
    demo.ask("update logistics.shipments set carrier = 'CHANGED' where shipment_id = %s", [wanted[5][0]])
    try:
        one = client.get(path, params={"shipment_id": f"eq.{wanted[5][0]}", "select": "carrier"})
        assert one.json()["rows"] == [{"carrier": "CHANGED"}]
    finally:
        demo.ask("update logistics.shipments set carrier = %s where shipment_id = %s", [wanted[5][1], wanted[5][0]])
        demo.run("precalculate")


def test_gzip_is_readable_by_others(client: httpx.Client) -> None:
    """A compressed body is a gzip member as any program reads it."""
    with client.stream("GET", DAYS, headers={"Accept-Encoding": "gzip"}) as got:
        body = b"".join(got.iter_raw())
    assert json.loads(gzip.decompress(body))["aggregate"] == "daily_shipments"


def test_csv_is_read_by_the_standard_library(client: httpx.Client) -> None:
    """Each line of CSV has as many fields as the header."""
    got = client.get(DAYS, params={"format": "csv"})
    lines = list(csv.reader(io.StringIO(got.text)))
    assert {len(line) for line in lines} == {len(lines[0])}
