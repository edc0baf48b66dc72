"""Features of lanes, scaled against the lanes of their quarter, and the lanes that are most like a lane."""

import json
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from etl.precalculation.catalogue import choose
from tests.support.facts import differences, refreshed
from tests.support.faults import Connection
from tests.support.recomputed.exactly import Row, exact
from tests.support.recomputed.lanes import LANE, SCALED, lane_features, similar

# Lanes to C0 ... C11 of one quarter, each slower and dearer than the one before; C1 and C2 are equal in all, so that
# they tie. C10 has 19 shipments, C11 has 3 and no delivery. Each fifth shipment is late, and some lack a value.
SHIPMENTS = """
    insert into logistics.shipments
        (shipment_id, status, origin_country, origin_city, destination_country, destination_city, created_at,
         picked_up_at, promised_at, delivered_at, weight_kg, freight_cost, etl_run, etl_batch, etl_place)
    select
        %(prefix)s || lane || '-' || n, case when n %% 29 = 28 then 'cancelled' end, 'DE', 'Köln', 'FR', 'C' || lane,
        created_at, created_at + interval '5 hours',
        case when n %% 7 < 6 then created_at + (30 + slow) * interval '1 hour' end,
        case when lane < 11 then
            created_at + interval '5 hours' + (slow * 7 + n %% 5 * 11) * interval '61 minutes'
        end,
        case when n %% 6 < 5 then 10 + n end, case when n %% 8 < 7 then (10 + n) * (slow + 0.333) end, 1, 0, 1
    from generate_series(0, 11) as lane
    cross join lateral (select case when lane = 2 then 1 else lane end as slow) as speed
    cross join lateral generate_series(1, case when lane = 10 then 19 when lane = 11 then 3 else 25 + slow end) as n
    cross join lateral (
        select timestamptz '2025-01-01 00:30+02' + (n * (3 + slow %% 4) %% 90 + %(quarters)s * 91) * interval '1 day'
            as created_at
    ) as created
"""


def _ship(connection: Connection, quarters: int = 0, prefix: str = "") -> None:
    connection.execute(SHIPMENTS, {"quarters": quarters, "prefix": prefix})


@pytest.fixture
def lanes(connection: Connection) -> Connection:
    """Give a database with the lanes of a quarter."""
    _ship(connection)
    return connection


def _facts(connection: Connection) -> dict[str, Sequence[Row]]:
    tables = ("logistics.shipments", "analytics.name_spellings", "analytics.shipment_states")
    with connection.cursor(row_factory=dict_row) as cursor:
        return {name: cursor.execute(f"table {name}".encode()).fetchall() for name in tables}


def _rows(connection: Connection) -> list[Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("table analytics.lane_features").fetchall()


def _by_key(rows: Sequence[Row]) -> dict[tuple[Any, ...], dict[str, Any]]:
    (aggregate,) = choose(["lane_features"])
    return {
        tuple(row[name] for name in aggregate.key): {name: exact(row[name]) for name, _ in aggregate.columns}
        for row in rows
    }


def _similar(connection: Connection, city: str, most: int | None = None) -> list[tuple[Any, ...]]:
    lane = json.dumps(["DE", "Köln", "FR", city])
    query = sql.SQL("select distance, count_compared, {} from analytics.similar_lanes(%s, %s)")
    found = connection.execute(query.format(_columns(LANE)), [lane, most]).fetchall()
    return [(exact(distance), count, tuple(names)) for distance, count, *names in found]


def _columns(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def test_features_and_neighbours_are_those_of_a_recomputation(lanes: Connection) -> None:
    """Features are exact for every lane; the neighbours of every lane come in the same order, ties by their names."""
    refreshed(lanes, "lane_features")
    rows = lane_features(_facts(lanes))
    assert _by_key(_rows(lanes)) == _by_key(rows)
    assert {name for name in SCALED if any(row[name] for row in rows)} == set(SCALED)
    newest = max(row["quarter"] for row in rows if row["count_transits"] >= 20)
    for row in (row for row in rows if row["quarter"] == newest):
        assert _similar(lanes, row["destination_city"]) == similar(rows, row), row["destination_city"]
    equal = [names[3] for distance, _, names in _similar(lanes, "C0") if names[3] in ("C1", "C2")]
    assert equal == ["C1", "C2"]
    assert [names[3] for _, _, names in _similar(lanes, "C1", 1)] == ["C2"]


def test_an_incremental_refresh_of_scales_equals_a_full_one(lanes: Connection) -> None:
    """One changed lane moves the scales of its quarter, and of no other; nothing differs from a full computation."""
    _ship(lanes, 1, "later-")
    refreshed(lanes, "lane_features")
    before = _by_key(_rows(lanes))
    lanes.execute(
        "update logistics.shipments set delivered_at = delivered_at + interval '99 hours' where shipment_id like '3-%'"
    )
    done = refreshed(lanes, "lane_features")
    (aggregate,) = choose(["lane_features"])
    assert not differences(lanes, aggregate)
    after = _by_key(_rows(lanes))
    changed = {key for key in after if after[key] != before[key]}
    assert done.rows == len(changed) > 3
    assert date(2025, 4, 1) not in {quarter for quarter, *_ in changed}
    assert _by_key(lane_features(_facts(lanes))) == after


def test_a_lane_with_little_data_is_compared_by_what_is_known(lanes: Connection) -> None:
    """A new lane is compared by promise, cost and volume; it is nobody's neighbour."""
    refreshed(lanes, "lane_features")
    query = "select distinct count_compared, asked_transits from analytics.similar_lanes(%s)"
    assert lanes.execute(query, ['["DE", "Köln", "FR", "C11"]']).fetchall() == [(3, 0)]
    assert {names[3] for _, _, names in _similar(lanes, "C0")} == {f"C{number}" for number in range(1, 10)}
    assert _similar(lanes, "nowhere") == []
    assert lanes.execute("select * from analytics.similar_lanes('[]')").fetchall() == []


def test_the_newest_quarter_is_asked_only_if_no_older_one_has_enough(lanes: Connection) -> None:
    """In the newest quarter only the fast shipments have arrived, and a wrong year is no newest quarter."""
    _ship(lanes, 1, "later-")
    lanes.execute("update logistics.shipments set created_at = '2062-01-01' where shipment_id = 'later-5-1'")
    lanes.execute("delete from logistics.shipments where shipment_id like '4-%'")
    refreshed(lanes, "lane_features")
    query = "select distinct quarter::text from analytics.similar_lanes(%s)"

    def quarter(city: str) -> list[tuple[str]]:
        return lanes.execute(query, [json.dumps(["DE", "Köln", "FR", city])]).fetchall()

    assert (quarter("C3"), quarter("C4"), quarter("C5")) == ([("2025-01-01",)], [("2025-04-01",)], [("2025-01-01",)])
    asked = "select distinct quarter::text from analytics.similar_lanes(%s, in_quarter => '2025-05-05')"
    assert lanes.execute(asked, ['["DE", "Köln", "FR", "C3"]']).fetchall() == [("2025-04-01",)]


def test_pgvector_finds_the_same_neighbours(lanes: Connection) -> None:
    """Where all features are known, the order is that of the distance of vectors."""
    try:
        lanes.execute("create extension vector")
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile):
        pytest.skip("the server has no pgvector")
    refreshed(lanes, "lane_features")
    query = sql.SQL("""
        select other.destination_city
        from (select *, array[{features}]::vector as features from analytics.lane_features) as asked
        join (select *, array[{features}]::vector as features from analytics.lane_features) as other using (quarter)
        where asked.destination_city = 'C5' and quarter = '2025-01-01' and other.destination_city <> 'C5'
            and other.count_transits >= 20
        order by asked.features <-> other.features, other.destination_city
    """)
    expected = [city for (city,) in lanes.execute(query.format(features=_columns(SCALED))).fetchall()]
    assert len(expected) == 9
    assert [names[3] for _, _, names in _similar(lanes, "C5")] == expected
