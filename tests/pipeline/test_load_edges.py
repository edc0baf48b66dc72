import json
import os
import signal
import threading
from pathlib import Path

import pytest

from tests.support.commands import RunEtl
from tests.support.faults import Connection
from tests.support.site import Site
from tests.support.waiting import until

ORDERS = """
name = "orders"
mode = "merge"
key = ["order_id"]
[[table]]
name = "logistics.orders"
[table.columns]
order_id = { type = "text", required = true }
status = { type = "text", max_length = 20 }
"""


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site that has the table of a small dataset."""
    site.define(ORDERS)
    return site


@pytest.mark.parametrize("mode", [["--mode", "replace"], ["--atomic"], []])
def test_a_resumed_replace_is_known_afterwards(
    run_etl: RunEtl, connection: Connection, tmp_path: Path, mode: list[str]
) -> None:
    """An interrupted and completed replace is already_loaded the third time; its rejects are stored once."""
    complete = json.dumps([{"order_id": name} for name in "ABC"] + [{"order_id": "D", "status": "x" * 30}])
    (tmp_path / "feed.json").write_text(complete[: complete.index('"C"') + 1])
    load = ["load", "orders", "feed.json", "--json", "--max-rejected", "1", *mode]
    assert run_etl(*load).returncode == 3
    (tmp_path / "feed.json").write_text(complete)
    assert run_etl(*load).returncode == 1
    again = run_etl(*load)
    assert (again.returncode, again.summaries[0]["status"]) == (1, "already_loaded")
    assert connection.execute("select sum(count_records) from etl.failures where state = 'pending'").fetchone() == (1,)


def test_a_wrong_records_path_can_be_corrected(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """A run without any batch fixes no setting: the right --records (or mode) is accepted afterwards."""
    (tmp_path / "feed.json").write_text('{"orders": [{"order_id": "A"}]}')
    assert run_etl("load", "orders", "feed.json", "--records", "order.item").returncode == 3
    done = run_etl("load", "orders", "feed.json", "--records", "orders.item", "--json")
    assert done.returncode == 0
    assert done.summaries[0]["records"]["loaded"] == 1


def test_another_definition_in_the_middle_is_2_before_any_load(
    run_etl: RunEtl, connection: Connection, tmp_path: Path
) -> None:
    """Exit 2 is decided for all sources before any load: the first source is not loaded either."""
    complete = json.dumps([{"order_id": name} for name in "ABC"])
    (tmp_path / "second.json").write_text(complete[:20])
    assert run_etl("load", "orders", "second.json").returncode == 3
    (tmp_path / "second.json").write_text(complete)
    (tmp_path / "first.json").write_text('[{"order_id": "F"}]')
    done = run_etl("load", "orders", "first.json", "second.json", "--mode", "append", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert connection.execute("select count(*) from logistics.orders where order_id = 'F'").fetchone() == (0,)


def test_an_empty_name_is_no_folder(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """An empty SOURCE (an unset variable of a script) must not load the current folder."""
    (tmp_path / "feed.json").write_text('[{"order_id": "A"}]')
    done = run_etl("load", "orders", "", "--json")
    assert done.returncode in {2, 3}
    assert connection.execute("select count(*) from logistics.orders").fetchone() == (0,)


def test_a_server_that_is_not_there_has_a_line(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """C4: every exit code but 2 has a summary line, also exit 4 before the load begins."""
    (tmp_path / "feed.json").write_text("[]")
    done = run_etl("--database", "postgresql://me@127.0.0.1:1/facts", "load", "orders", "feed.json", "--json")
    assert done.returncode == 4
    source, total = done.lines
    assert (source["run"], source["status"], source["exit_code"], source["database"]) == (
        None,
        "incomplete",
        4,
        "127.0.0.1/facts",
    )
    assert total["exit_code"] == 4


def test_a_fifo_is_a_stream(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """A named pipe or <(command) is read once like standard input; it is neither read ahead nor called changed."""
    os.mkfifo(tmp_path / "pipe")
    text = json.dumps([{"order_id": f"O{n}", "status": "x" * 20} for n in range(40000)]).encode()

    def feed() -> None:
        with (tmp_path / "pipe").open("wb") as pipe:
            pipe.writelines(text[at : at + 10000] for at in range(0, len(text), 10000))

    for status in ("loaded", "already_loaded"):
        threading.Thread(target=feed, daemon=True).start()
        done = run_etl("load", "orders", "pipe", "--json")
        assert (done.returncode, done.summaries[0]["status"]) == (0, status)


def test_a_fifo_without_a_writer_is_reported_and_ended_by_a_signal(site: Site) -> None:
    """The log says that the load waits for the writer of a named pipe; a signal ends the wait."""
    os.mkfifo(site.folder / "pipe")
    running = site.start("load", "orders", "pipe")
    until(lambda: running.events("source_awaited"), "the report of the wait")
    running.signal(signal.SIGTERM)
    assert running.ended().returncode == 143


def test_a_run_is_logged_at_info(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """Each run logs one summary event at info: dataset, status, exit_code and counts, with run and source bound."""
    (tmp_path / "feed.json").write_text('[{"order_id": "A"}]')
    done = run_etl("load", "orders", "feed.json")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(e["level"], e["source"], e["status"], e["exit_code"]) for e in events if "run" in e] == [
        ("info", "feed.json", "loaded", 0)
    ]


@pytest.mark.aggregates
def test_a_precalculation_that_fails_is_not_0(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """Aggregates that could not be refreshed change the exit code to 4, and are reported on stderr."""
    connection.execute("drop table analytics.vehicle_days")
    log = {"log_id": "L1", "vehicle_id": "V1", "trip_date": "2026-01-01"}
    (tmp_path / "feed.json").write_text(json.dumps([log]))
    done = run_etl("load", "vehicle_logs", "feed.json", "--json")
    assert "vehicle_days cannot be computed" in done.stderr
    assert done.returncode in {2, 4}
    assert done.lines[-1]["exit_code"] == done.returncode


def test_a_merge_into_a_table_without_its_key_is_2(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """SQLSTATE 42* at the first statement is exit 2 with the remedy, not exit 4 "run the same command"."""
    connection.execute("alter table logistics.orders drop constraint orders_pkey")
    (tmp_path / "feed.json").write_text('[{"order_id": "A"}]')
    done = run_etl("load", "orders", "feed.json")
    assert done.returncode == 2
    assert "logistics.orders" in done.stderr
