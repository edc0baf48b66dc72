"""Batches that do not load although their data may be fine: single ones are stored, and many in a row stop the load."""

import json

import pytest

from tests.support.site import Site

QUICK = ["--retry-attempts", "2", "--retry-base-seconds", "0.01", "--retry-cap-seconds", "0.02"]

PARCELS = """
name = "parcels"
mode = "append"
key = ["parcel_id"]
[[table]]
name = "logistics.parcels"
[table.columns]
parcel_id = { type = "integer", required = true }
"""


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site with a dataset `parcels`, and a source of twenty."""
    site.define(PARCELS)
    (site.folder / "feed.ndjson").write_text("".join(f'{{"parcel_id": {number}}}\n' for number in range(20)))
    return site


def _load(*more: str) -> list[str]:
    return ["load", "parcels", "feed.ndjson", "--json", "--batch-rows", "2", *QUICK, *more]


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_failed_batches_in_a_row_stop_a_load(site: Site, workers: str) -> None:
    """The third failed batch in a row is 4 and is not stored; nothing more is, however often the command runs."""
    site.on_insert("logistics.parcels", "true", "raise 'never' using errcode = '57014';")
    for attempt in range(2 if workers == "1" else 1):
        done = site.run(*_load("--workers", workers))
        assert (done.returncode, done.summary["status"]) == (4, "incomplete"), attempt
        assert "3 batches in a row did not load" in done.stderr
        assert "SQLSTATE 57014" in done.stderr
        assert done.summary["records"]["pending"] == 4
        assert site.value("select count(*) from etl.batches") == 2
    site.ask("drop trigger fault on logistics.parcels")
    done = site.run(*_load("--workers", workers))
    assert (done.returncode, done.summary["status"]) == (1, "loaded_with_rejects")
    assert (done.summary["records"]["skipped"], done.summary["records"]["loaded"]) == (4, 16)
    assert site.run("failed", "replay", "--all").returncode == 0
    assert site.column("select parcel_id from logistics.parcels order by 1") == list(range(20))
    assert site.run(*_load("--workers", workers)).summary["status"] == "already_loaded"


def test_a_batch_that_loads_begins_the_count_again(site: Site) -> None:
    """Failed batches that are not in a row are stored, and the rest is loaded."""
    site.on_insert("logistics.parcels", "new.parcel_id % 6 < 4", "raise 'never' using errcode = '55P03';")
    done = site.run(*_load())
    assert done.returncode == 1
    assert done.summary["batches"] == {"loaded": 3, "failed": 7, "retried": 7}
    assert site.column("select parcel_id from logistics.parcels order by 1") == [4, 5, 10, 11, 16, 17]
    site.ask("drop trigger fault on logistics.parcels")
    assert site.run("failed", "replay", "--all").returncode == 0
    assert site.column("select parcel_id from logistics.parcels order by 1") == list(range(20))


def test_a_failed_batch_ends_an_atomic_run(site: Site) -> None:
    """A batch of an atomic run that cannot load is 4: all of the source becomes visible, or nothing."""
    (site.folder / "feed.json").write_text(json.dumps([{"parcel_id": number} for number in range(6)]))
    command = ["load", "parcels", "feed.json", "--json", "--batch-rows", "2", "--atomic", *QUICK]
    site.ask(
        "create function is_fine(id integer) returns boolean language plpgsql as $$ begin"
        " if id = 3 then raise 'never' using errcode = '57014'; end if; return true; end $$;"
        # A trigger of the fact would not fire when the rows are staged.
        " create domain odd as integer check (is_fine(value));"
        " alter table logistics.parcels alter column parcel_id type odd"
    )
    done = site.run(*command)
    assert (done.returncode, done.summary["status"]) == (4, "incomplete")
    assert "the batch at byte" in done.stderr
    assert "SQLSTATE 57014" in done.stderr
    assert done.summary["records"]["loaded"] == 0
    assert site.value("select count(*) from etl.failures") == 0
    site.ask("alter domain odd drop constraint odd_check")
    assert site.run(*command).returncode == 0
    assert site.column("select parcel_id from logistics.parcels order by 1") == list(range(6))
