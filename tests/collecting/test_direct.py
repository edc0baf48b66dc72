"""`etl collect --direct`: an event that is acknowledged is in its table, or in the failed store."""

import json
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import httpx
import pytest
from psycopg.conninfo import make_conninfo

from etl.collecting.buffers import Accepted, Limits, OtherBodyError, RefusedError
from etl.collecting.direct import Direct, DirectStore
from etl.collecting.events import Events, events_of
from etl.database.connecting import Database
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import locks
from etl.ingestion.pipeline.freshening import Refresher
from etl.settings import LoadSettings, RetrySettings
from tests.collecting.test_collector import collecting
from tests.support.definitions import SMALL_PARCELS
from tests.support.relays import Relay
from tests.support.site import Site
from tests.support.waiting import until

COUNT = "select count(*) from logistics.parcels"


def _events(*bodies: object) -> Events:
    return events_of(json.dumps(bodies).encode())


@contextmanager
def loading_directly(site: Site, conninfo: str | None = None) -> Iterator[Direct]:
    """Run what loads the events of parcels."""
    database, config = Database(conninfo=conninfo or site.conninfo), site.folder / "config"
    with FailedStore(site.folder / "failed") as failed:
        failed.prepare()
        refresher = Refresher(database, config, RetrySettings(), 0)
        settings = LoadSettings(failed_dir=site.folder / "failed")
        store = DirectStore(database=database, config_dir=config, settings=settings, failed=failed, refresher=refresher)
        with closing(store.opened("parcels", Limits())) as direct:
            yield direct


def test_acknowledged_is_loaded(site: Site) -> None:
    """The answer comes after the commit; refused events are in the failed store; a known key loads nothing again."""
    site.define(SMALL_PARCELS)
    with loading_directly(site) as one, loading_directly(site) as two:
        first = one.submit(_events({"parcel_id": "A"}, {"parcel_id": "B", "weight": "x"}), key="k").result()
        assert site.column("select parcel_id from logistics.parcels") == ["A"]
        [stored] = (site.folder / "failed").glob("parcels/*/*.json")
        assert json.loads(stored.read_text())["records"][0]["offset"] == first.offsets[1]
        same = _events({"parcel_id": "A"}, {"parcel_id": "B", "weight": "x"})
        again = Accepted(stream=first.stream, offsets=first.offsets, is_repeat=True)
        for each in (one, two):
            assert each.submit(same, key="k").result() == again
        with pytest.raises(OtherBodyError):
            two.submit(_events({"parcel_id": "C"}), key="k").result()
        futures = [each.submit(_events({"parcel_id": "D"}), key="l") for each in (one, one, two, two, one)]
        assert [future.result().is_repeat for future in futures].count(False) == 1
        assert len({future.result().stream for future in futures}) == 1
        later = one.submit(_events({"parcel_id": "E"}, {"parcel_id": "F"})).result()
        assert later.stream == first.stream
    assert site.column("select parcel_id from logistics.parcels order by 1") == ["A", "D", "E", "F"]
    with loading_directly(site) as next_start:
        assert next_start.submit(_events({"parcel_id": "D"}), key="l").result().is_repeat
    assert site.value("select sum(count_events) from etl.streams") == 5


def test_what_a_crash_left_in_the_failed_store(site: Site) -> None:
    """A file that a killed collector wrote, and did not enter, is moved aside by the next one, which has other runs."""
    site.define(SMALL_PARCELS)
    with loading_directly(site) as killed:
        killed.submit(_events({"parcel_id": "A", "weight": "x"})).result()
    [entered] = site.store.glob("parcels/*/*.json")
    unknown = entered.with_name(f"{entered.parent.name}-b9999999.json")
    for ending in (".json", ".ndjson"):
        unknown.with_suffix(ending).write_bytes(entered.with_suffix(ending).read_bytes())
    with loading_directly(site) as other:
        other.submit(_events({"parcel_id": "B"})).result()
    assert sorted(path.name for path in entered.parent.glob("*.json")) == [entered.name]
    assert sorted(path.name for path in (entered.parent / "aside").glob("*.json")) == [unknown.name]


def test_a_commit_in_doubt(site: Site) -> None:
    """When the answer to the commit is lost, the events are loaded once, and are acknowledged."""
    site.define(SMALL_PARCELS)
    relay = Relay(site.conninfo)
    try:
        with loading_directly(site, relay.conninfo) as direct:
            direct.submit(_events({"parcel_id": "A"})).result()
            relay.swallow_answer_to_commit = relay.commits + 1
            direct.submit(_events({"parcel_id": "B"}), key="k").result()
            assert relay.cuts == 1
            direct.submit(_events({"parcel_id": "C"})).result()
    finally:
        relay.close()
    assert site.column("select parcel_id from logistics.parcels order by 1") == ["A", "B", "C"]


def test_a_dataset_that_others_hold(site: Site) -> None:
    """While a replace holds the dataset, or its table is missing, requests are refused; its user need only load."""
    site.define(SMALL_PARCELS)
    with loading_directly(site, make_conninfo(site.conninfo, options="-c role=etl_loader")) as direct:

        def is_accepted(name: str) -> bool:
            with suppress(RefusedError):
                return bool(direct.submit(_events({"parcel_id": name}), key=name).result())
            return False

        assert is_accepted("A")
        with site.connect() as holder:
            locks.hold_dataset(holder, "parcels", "replace")
            with pytest.raises(RefusedError, match="another command") as refused:
                direct.submit(_events({"parcel_id": "B"})).result()
            assert refused.value.seconds == 1
        until(lambda: is_accepted("C"), "the end of the replace")
        site.ask("alter table logistics.parcels rename to away")
        assert not is_accepted("D")
        site.ask("alter table logistics.away rename to parcels")
        until(lambda: is_accepted("E"), "the table")
    assert site.column("select parcel_id from logistics.parcels order by 1") == ["A", "C", "E"]


@pytest.mark.slow
def test_a_killed_collector(site: Site) -> None:
    """After a kill -9 each acknowledged event is a row, and none is two; options of a buffer are refused."""
    site.define(SMALL_PARCELS)
    assert site.run("collect", "--direct", "--buffer", "embedded").returncode == 2
    sent = 0
    for _ in range(2):
        with collecting(site, "--direct") as collector:
            for _ in range(20):
                collector.send(
                    [{"parcel_id": f"P{sent}"}, {"parcel_id": f"P{sent + 1}"}], **{"Idempotency-Key": str(sent)}
                )
                sent += 2
                assert site.value(COUNT) == sent
            collector.running.process.send_signal(signal.SIGKILL)
            collector.running.process.wait()
            with pytest.raises(httpx.TransportError):
                collector.send({"parcel_id": "none"})
    with collecting(site, "--direct") as collector:
        repeated = collector.send([{"parcel_id": "P0"}, {"parcel_id": "P1"}], **{"Idempotency-Key": "0"})
        assert repeated["is_repeat"]
        fate = collector.fate(repeated["stream"], repeated["offsets"][1])
        assert fate["status"] == "loaded"
        assert "loading_up" not in collector.client.get("/metrics").text
    assert site.ask("select count(*), count(distinct parcel_id) from logistics.parcels") == [(sent, sent)]
