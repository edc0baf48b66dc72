"""After any sequence of loads, changes, refreshes and requests: no 304 is stale, and every row equals the table."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.precalculation.catalogue import choose
from etl.precalculation.refresh import refresh
from tests.support.facts import add
from tests.support.site import Site

PATH = "/v1/aggregates/vehicle_days/rows"
COLUMNS = "source_day,vehicle_id,count_trips,sum_distance_km"
MINE = "vehicle_id=like.V-P*"
QUERIES = (f"{MINE}&select={COLUMNS}", f"{MINE}&select={COLUMNS}&format=csv", f"vehicle_id=eq.V-P1&select={COLUMNS}")
VEHICLES = ("V-P1", "V-P2", "V-P3")
DAYS = ("2034-01-01", "2034-01-02")

vehicles, days = st.sampled_from(VEHICLES), st.sampled_from(DAYS)
STEPS = st.one_of(
    st.tuples(st.just("add"), vehicles, days, st.integers(0, 9)),
    st.tuples(st.just("change"), vehicles, days, st.integers(0, 9)),
    st.tuples(st.just("remove"), vehicles),
    st.tuples(st.just("refresh"), st.booleans()),
    st.tuples(st.just("load"), vehicles, days, st.booleans()),
    st.tuples(st.just("ask"), st.sampled_from(QUERIES)),
    st.tuples(st.just("ask"), st.sampled_from(QUERIES)),
)


class _Sequence:
    """Does the steps of a sequence, and compares each answer with the table of that moment."""

    def __init__(self, site: Site, client: httpx.Client) -> None:
        self._site = site
        self._client = client
        self._sent: dict[str, tuple[str, str, list[tuple[str, ...]]]] = {}
        self._number = 0
        self.asked = 0

    def add(self, vehicle: str, day: str, distance: int) -> None:
        self._number += 1
        values = {"trip_date": day, "vehicle_id": vehicle, "distance_km": distance}
        add(self._site.connection, "vehicle_logs", log_id=f"SEQ-{self._number}", **values)

    def change(self, vehicle: str, day: str, distance: int) -> None:
        statement = "update logistics.vehicle_logs set trip_date = %s, distance_km = %s where vehicle_id = %s"
        self._site.ask(statement, [day, distance, vehicle])

    def remove(self, vehicle: str) -> None:
        self._site.ask("delete from logistics.vehicle_logs where vehicle_id = %s", [vehicle])

    def refresh(self, full: bool) -> None:
        (aggregate,) = choose(["vehicle_days"])
        refresh(self._site.connection, aggregate, run=None, full=full)

    def load(self, vehicle: str, day: str, has_refresh: bool) -> None:
        self._number += 1
        record = {
            "log_id": f"SEQ-L{self._number}",
            "vehicle_id": vehicle,
            "trip_date": day,
            "distance_km": self._number,
        }
        path = self._site.folder / "sequence.json"
        path.write_text(json.dumps([record]))
        self._site.run("load", "vehicle_logs", path, *([] if has_refresh else ["--no-precalculate"]))

    def ask(self, query: str) -> None:
        """Ask with the tag of the last answer: 304 if the version is the same, else the rows of the table."""
        rows, version = self._table(query)
        tag, known, before = self._sent.get(query, ("", "", []))
        got = self._client.get(f"{PATH}?{query}", headers={"If-None-Match": tag})
        self.asked += 1
        assert got.headers["x-version"] == version
        if got.status_code == 304:
            assert (known, before) == (version, rows)
            return
        assert (got.status_code, known == version) == (200, False)
        assert _rows(got) == rows
        self._sent[query] = (got.headers["etag"], version, rows)

    def _table(self, query: str) -> tuple[list[tuple[str, ...]], str]:
        chosen = "V-P1" if "eq.V-P1" in query else "V-P%"
        rows = self._site.ask(
            "select source_day::text, vehicle_id, count_trips::text, coalesce(sum_distance_km::text, '')"
            " from analytics.vehicle_days where vehicle_id like %s order by 1, 2",
            [chosen],
        )
        version = self._site.value("select version from analytics.freshness where aggregate = 'vehicle_days'")
        return rows, str(version)


def _rows(got: httpx.Response) -> list[tuple[str, ...]]:
    if got.headers["content-type"].startswith("text/csv"):
        return [tuple(line) for line in csv.reader(io.StringIO(got.text))][1:]
    rows = json.loads(got.text, parse_float=str, parse_int=str)["rows"]
    return [tuple("" if value is None else value for value in row.values()) for row in rows]


@pytest.mark.slow
@given(steps=st.lists(STEPS, min_size=3, max_size=25))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_answer_is_stale_after_any_sequence(client: httpx.Client, demo: Site, steps: list[tuple[Any, ...]]) -> None:
    """Each 304 has the version and the rows of the table, each 200 its rows; nothing is asked for in vain."""
    sequence = _Sequence(demo, client)
    try:
        for name, *values in steps:
            do: Callable[..., None] = getattr(sequence, name)
            do(*values)
        for query in QUERIES * 2:
            sequence.ask(query)
    finally:
        demo.ask("delete from logistics.vehicle_logs where vehicle_id like 'V-P%'")
        sequence.refresh(full=False)
    assert sequence.asked >= 2 * len(QUERIES)
