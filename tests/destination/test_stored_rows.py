"""The tables accept all rows that the core makes of records."""

import json
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import dict_row

from etl.database.tables import create_tables
from etl.datasets import Table
from tests.support.definitions import Define
from tests.support.faults import Connection
from tests.support.parcels import PARCELS, RECORDS, batch_of, copy_rows


def _stored(connection: Connection, table: Table) -> list[dict[str, Any]]:
    """Return the rows of a table in the order in which they were sent."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(sql.SQL("select * from {}").format(table.identifier)).fetchall()
    return sorted(rows, key=lambda row: (row["etl_place"], row.get("line_no")))


def test_the_tables_accept_every_projected_record(loader_session: Connection, define: Define) -> None:
    """Each random record is either rejected or stored, with its child rows and the exact values."""
    text = PARCELS.replace("merge", "append").replace('key = ["feed", "parcel_id"]', "")
    dataset = define(text.replace("extra = {", 'raw = { path = ".", type = "jsonb" }\nextra = {'))
    create_tables(loader_session, dataset)
    seen = [0, 0]

    @settings(
        deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(st.lists(RECORDS, min_size=1, max_size=12))
    def check(records: list[dict[str, Any]]) -> None:
        batch = batch_of(dataset, records)
        rejected = {each.place for each in batch.rejected}
        kept = [(place, record) for place, record in enumerate(records, 1) if place not in rejected]
        with loader_session.transaction(force_rollback=True):
            for table, [rows] in zip(dataset.tables, batch.tables, strict=True):
                copy_rows(loader_session, table, b"".join(rows.encoded()))
            parcels, items = (_stored(loader_session, table) for table in dataset.tables)
        assert batch.rows == (len(parcels), len(items))
        assert [row["etl_place"] for row in parcels] == [place for place, _ in kept]
        children = [(place, item) for place, record in kept for item in (record.get("box") or {}).get("items") or []]
        assert [(row["etl_place"], row["whole"]) for row in items] == [
            (place, _loose(item)) for place, item in children
        ]
        for row, (_, record) in zip(parcels, kept, strict=True):
            assert row["parcel_id"] is not None
            assert row["raw"] == _loose(record)
            weight: Any = record.get("weight")
            is_none = weight is None or weight == Decimal("-999.9")
            assert is_none or row["weight_note"] is not None or row["weight_kg"] == Decimal(weight)
        seen[0] += len(kept)
        seen[1] += len(rejected)

    check()
    assert min(seen) > 50


def _loose(value: Any) -> Any:
    """Return a value as psycopg reads it from jsonb."""
    return json.loads(json.dumps(value, default=float))
