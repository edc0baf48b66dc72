"""Tables that take the records, or the elements, of some kinds."""

from typing import Any

from etl.ingestion.values import Fault
from tests.support.definitions import Define
from tests.support.parcels import batch_of


def test_a_child_table_takes_the_elements_that_it_is_for(define: Define) -> None:
    """`where` of a table with `each` chooses elements, also by what the record holds; none is no fault."""
    dataset = define("""
name = "parcels"
[[table]]
name = "logistics.trips"
columns = { trip = "text" }
[[table]]
name = "logistics.pickups"
each = "stops"
where = { kind = "PICKUP", "^.status" = ["DONE", "OPEN"] }
columns = { trip = { path = "^.trip", type = "text" }, no = { path = "#", type = "integer" } }
""")
    records: list[dict[str, Any] | Fault] = [
        {"trip": "A", "status": "DONE", "stops": [{"kind": "DROP"}, {"kind": "PICKUP"}, {"kind": {}}, 5]},
        {"trip": "B", "status": "LOST", "stops": [{"kind": "PICKUP"}]},
    ]
    batch = batch_of(dataset, records)
    assert (batch.rows, batch.rejected) == ((2, 1), ())
    assert b"".join(batch.tables[1][0].encoded()).decode().startswith("A\t2\t")
