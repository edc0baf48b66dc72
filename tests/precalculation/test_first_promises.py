"""The first promised time of a shipment is kept, in whatever order its versions are loaded."""

import itertools
import json
import random
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import RunEtl
from tests.support.facts import refreshed, rows_of
from tests.support.faults import Connection

_files = itertools.count(1)
CREATED = "2026-03-01T00:00:00Z"


def version(shipment: str, updated: int | None, promised: int | None, **values: object) -> dict[str, Any]:
    """Return a version of a shipment, with its update and its promise on these days of March."""
    day = "2026-03-{:02}T00:00:00Z"
    return {
        "shipment_id": shipment,
        "carrier": "A",
        "created_at": CREATED,
        "updated_at": updated and day.format(updated),
        "promised_at": promised and day.format(promised),
        **values,
    }


def load(run_etl: RunEtl, tmp_path: Path, *versions: dict[str, Any], options: tuple[str, ...] = ()) -> None:
    """Load versions as one file, without a refresh."""
    path = tmp_path / f"{next(_files)}.ndjson"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in versions), encoding="utf-8")
    done = run_etl("load", "shipments", path, "--no-precalculate", *options)
    assert done.returncode == 0, done.stderr


def first_days(connection: Connection) -> dict[str, int]:
    """Return the day of the first promise of each shipment with a promise that was moved."""
    rows = connection.execute("select shipment_id, promised_at from analytics.first_promises").fetchall()
    return {shipment: promised.astimezone(UTC).day for shipment, promised in rows}


def test_a_promise_that_was_moved_counts_as_it_was_first(
    run_etl: RunEtl, connection: Connection, tmp_path: Path
) -> None:
    """Both shares are shown; an unchanged version adds nothing, and a deleted shipment is forgotten."""
    delivered = {"status": "delivered", "delivered_at": "2026-03-07T00:00:00Z"}
    same = version("same", 1, 9, **delivered)
    load(run_etl, tmp_path, version("moved", 1, 5), same)
    load(run_etl, tmp_path, version("moved", 2, 8, **delivered), same, version("both", 1, 4), version("both", 3, 8))
    assert first_days(connection) == {"moved": 5, "both": 4}
    columns = "count_on_time count_late on_time_share count_first_on_time count_first_late first_on_time_share"
    refreshed(connection, "carrier_scorecard")
    assert rows_of(connection, "carrier_scorecard", columns) == [(2, 0, 1, 1, 1, Decimal("0.5"))]
    # An older version that comes late is the first promise; the trigger of its table touches the month.
    load(run_etl, tmp_path, version("same", None, 6))
    refreshed(connection, "carrier_scorecard")
    assert rows_of(connection, "carrier_scorecard", columns) == [(2, 0, 1, 0, 2, 0)]
    connection.execute("delete from logistics.shipments where shipment_id = 'moved'")
    assert first_days(connection) == {"same": 6, "both": 4}


@pytest.mark.parametrize("order", [0, *(pytest.param(order, marks=pytest.mark.slow) for order in range(1, 9))])
def test_the_oldest_version_is_the_first_promise_in_any_order(
    run_etl: RunEtl, connection: Connection, tmp_path: Path, order: int
) -> None:
    """Versions in one file or several, in batches of two, an older one later or first: the oldest promise is kept."""
    chance = random.Random(order)
    versions, expected = [], {}
    for number in range(12):
        days = chance.sample(range(1, 28), 4)
        promises = chance.sample((None, 5, 6, 7, 8), 4)
        versions += [version(f"S{number}", *pair) for pair in zip(days, promises, strict=True)]
        known = [promise for _, promise in sorted(zip(days, promises, strict=True)) if promise]
        if known:
            expected[f"S{number}"] = known[0]
    chance.shuffle(versions)
    load(run_etl, tmp_path, *versions[:20], options=("--batch-rows", "2"))
    load(run_etl, tmp_path, *versions[20:40])
    load(run_etl, tmp_path, *versions[40:])
    rows = connection.execute(
        "select shipment_id, coalesce(first_promises.promised_at, shipments.promised_at) "
        "from logistics.shipments left join analytics.first_promises using (shipment_id)"
    )
    got: dict[str, datetime | None] = dict(rows.fetchall())
    assert {name: at.astimezone(UTC).day for name, at in got.items() if at} == expected
