"""The lanes that behave like a lane, over HTTP."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from psycopg import sql

from tests.support.site import Site

LANE = ("origin_country", "origin_city", "destination_country", "destination_city")
NAMES = sql.SQL(", ").join(map(sql.Identifier, LANE))


@pytest.fixture
def measured(demo: Site) -> Iterator[list[list[str]]]:
    """Give the lanes of a quarter, the slowest first; for a test, each has enough transits."""
    transits = sql.SQL(
        "update analytics.lane_features set count_transits = {}, p50_transit_hours = {}, p90_transit_hours = {},"
        " scaled_transit_p50 = {}, scaled_transit_p90 = {} where quarter = '2025-07-01'"
    )
    some = map(sql.SQL, ("20", "count_promised", "count_promised + 1", "scaled_promise", "scaled_promise"))
    demo.ask(transits.format(*some) + sql.SQL(" returning 1"))
    order = sql.SQL(
        "select {} from analytics.lane_features where quarter = '2025-07-01' order by scaled_promise desc, {}"
    )
    yield [list(row) for row in demo.ask(order.format(NAMES, NAMES))]
    assert demo.run("precalculate", "lane_features", "--full").returncode == 0


def _similar(client: httpx.Client, lane: object, **query: str) -> httpx.Response:
    return client.get(f"/v1/lanes/{quote(json.dumps(lane), safe='')}/similar", params=query)


def test_the_answer_is_that_of_the_function(client: httpx.Client, demo: Site, measured: list[list[str]]) -> None:
    """The same lanes in the same order, with the state of the table beside them."""
    answer = _similar(client, measured[0], limit="7").json()
    [(expected,)] = demo.ask(
        "select json_agg(to_json(found)) from analytics.similar_lanes(%s, 7) as found", [json.dumps(measured[0])]
    )
    assert [row | {"quarter": "2025-07-01", "asked_transits": 20} for row in answer.pop("similar")] == expected
    [(version,)] = demo.ask("select version from analytics.freshness where aggregate = 'lane_features'")
    assert answer.pop("facts_through")
    assert answer == {
        "version": version,
        "pending_buckets": 0,
        "lane": measured[0],
        "quarter": "2025-07-01",
        "count_transits": 20,
        "has_little_data": False,
    }
    assert len(_similar(client, measured[0]).json()["similar"]) == 5


def test_a_lane_with_little_data_is_said_to_have_little(client: httpx.Client, demo: Site) -> None:
    """Without any lane to compare with the list is empty."""
    [lane] = demo.ask(sql.SQL("select {} from analytics.lane_features limit 1").format(NAMES))
    answer = _similar(client, lane).json()
    assert (answer["lane"], answer["similar"], answer["has_little_data"]) == (list(lane), [], None)


@pytest.mark.parametrize(
    ("lane", "query", "status", "word"),
    [
        (["DE", "a/b", "FR", "%2F"], {}, 404, "no shipment"),
        (["DE", "Berlin", "FR"], {}, 422, "JSON list"),
        (["DE", "Berlin", "FR", 1], {}, 422, "JSON list"),
        (["DE", "\0", "FR", "Lyon"], {}, 422, "JSON list"),
        ("DE", {}, 422, "JSON list"),
        (["a", "b", "c", "d"], {"limit": "0"}, 422, "wrong"),
        (["a", "b", "c", "d"], {"quarter": "2025"}, 422, "wrong"),
        (["a", "b", "c", "d"], {"most": "1"}, 422, "limit and quarter"),
    ],
)
def test_what_cannot_be_asked_is_named(
    client: httpx.Client, lane: object, query: dict[str, Any], status: int, word: str
) -> None:
    """A lane that nobody shipped on is 404; what is no lane, and a wrong parameter, is 422."""
    answer = _similar(client, lane, **query)
    assert (answer.status_code, word in answer.json()["detail"]) == (status, True), answer.text
