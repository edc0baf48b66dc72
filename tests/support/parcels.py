"""A dataset with every kind of column, random records of it, and their rows as the core makes them."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from psycopg import sql

from etl.datasets import LINEAGE, Dataset, Table
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Batch, Fault, Piece
from tests.support.faults import Connection

PARCELS = """
name = "parcels"
mode = "merge"
key = ["feed", "parcel_id"]
[[table]]
name = "logistics.parcels"
[table.columns]
parcel_id = { path = "id", type = "text", required = true, max_length = 10, null_if = ["", "N/A"] }
feed = { value = "DHL\\t1", type = "text", required = true }
city = { path = "to.address.city", type = "text" }
small = { type = "smallint", min = -5 }
count = { type = "integer", null_if = [-1, 0] }
big = "bigint"
weight_kg = { path = "weight", type = "numeric", above = 0, null_if = [-999.9], misfits_to = "weight_note" }
weight_note = { path = "weight_text", type = "text", max_length = 16 }
rate = { type = "double", max = 2.5 }
is_fragile = "boolean"
sent_on = { type = "date", misfits_to = "sent_note" }
sent_note = "text"
sent_at = "timestamptz"
level = { type = "text", one_of = ["a", "b"] }
extra = { path = "to", type = "jsonb" }
[[table]]
name = "logistics.parcel_items"
each = "box.items"
[table.columns]
parcel_id = { path = "^.id", type = "text" }
feed = { value = "DHL\\t1", type = "text" }
line_no = { path = "#", type = "integer" }
city = { path = "^.to.address.city", type = "text" }
sku = "text"
grams = { path = "mass.grams", type = "integer", min = 0 }
whole = { path = ".", type = "jsonb" }
"""

_TEXT = st.text(st.sampled_from("\t\n\\N.\x00\ud83d") | st.characters(codec="utf-8"), max_size=6)
_NUMBER = st.integers(-10, 10) | st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=2)
_SCALAR = (
    st.none()
    | st.booleans()
    | _NUMBER
    | _TEXT
    | st.sampled_from(["2026-11-21", "2026-11-21T08:15:00Z", "a", "N/A", "5"])
)
_VALUE = _SCALAR | st.lists(_SCALAR, max_size=2) | st.dictionaries(_TEXT, _SCALAR, max_size=2)
_ITEM = st.fixed_dictionaries(
    {}, optional={"sku": _SCALAR, "mass": st.fixed_dictionaries({"grams": _NUMBER}) | st.none()}
)
RECORDS = st.fixed_dictionaries(
    {"id": st.text("ab", min_size=1, max_size=3) | _VALUE},
    optional={
        "to": st.fixed_dictionaries({"address": st.fixed_dictionaries({"city": _SCALAR}) | st.none()}) | _VALUE,
        "small": st.integers(-6, 6) | _SCALAR,
        "count": st.integers(-1, 3) | _SCALAR,
        "big": st.integers(-(2**63), 2**63) | _SCALAR,
        "weight": st.decimals(1, 9, places=3) | _VALUE,
        "weight_text": _TEXT,
        "rate": st.decimals(-3, 3, places=9) | _SCALAR,
        "is_fragile": st.booleans() | _SCALAR,
        "sent_on": st.dates().map(str) | _VALUE,
        "sent_at": st.datetimes().map(lambda time: f"{time.isoformat()}Z") | _SCALAR,
        "level": st.sampled_from(["a", "b", "c"]),
        "box": st.fixed_dictionaries({"items": st.lists(_ITEM, max_size=3)}) | _VALUE,
        "more": _VALUE,
    },
)


def batch_of(dataset: Dataset, records: Sequence[dict[str, Any] | Fault], places: Sequence[int] = ()) -> Batch:
    """Return the rows of some records, as those of the piece at byte 70 of run 9."""
    piece = Piece(offset=70, count=len(records), first_record=1, parts=(), shape="array")
    return Projection(dataset).batch(piece, records, 9, places or range(1, len(records) + 1))


def column_names(table: Table) -> list[str]:
    """Return the columns of a table in the order of COPY."""
    return [*(column.name for column in table.columns), *LINEAGE]


def copy_rows(connection: Connection, table: Table, rows: bytes) -> None:
    """Send rows of a table by COPY."""
    names = sql.SQL(", ").join(map(sql.Identifier, column_names(table)))
    statement = sql.SQL("copy {} ({}) from stdin").format(table.identifier, names)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(rows)
