import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.errors import EtlError
from etl.ingestion.summary import Summary
from etl.settings import Mode, RetrySettings
from tests.support.site import Site

ORDERS = """
name = "orders"
mode = "merge"
key = ["order_id"]
newest_by = "version"
[[table]]
name = "lab.orders"
[table.columns]
order_id = { type = "text", required = true }
version = "integer"
status = "text"
ref = "text"
carrier = "text"
depot = "text"
code = "text"
short = "text"
kind = "text"
external_id = "text"
amount = { type = "numeric", min = 0 }
divisor = "integer"
slot = "integer"
note = "text"
[[table]]
name = "lab.order_lines"
each = "lines"
[table.columns]
order_id = { path = "^.order_id", type = "text" }
line_no = { path = "#", type = "integer" }
sku = "text"
quantity = { type = "integer", min = 0 }
"""

# Changes made to the tables by hand: only the server knows them.
BY_HAND = """
create table lab.carriers (carrier text primary key);
insert into lab.carriers values ('north'), ('south');
create domain lab.order_code as text constraint order_code_form check (value ~ '^[A-Z]+$');
create type lab.order_kind as enum ('parcel', 'pallet');
alter table lab.orders
    alter column code type lab.order_code,
    alter column short type varchar(5),
    alter column kind type lab.order_kind using kind::lab.order_kind,
    alter column external_id type uuid using external_id::uuid,
    add column share numeric generated always as (100 / divisor) stored,
    add column cents smallint generated always as (amount * 100) stored,
    add constraint orders_status_known check (status <> 'bad'),
    add constraint orders_ref_once unique (ref),
    add constraint orders_carrier_known foreign key (carrier) references lab.carriers,
    add constraint orders_depot_known foreign key (depot) references lab.carriers deferrable initially deferred,
    add constraint orders_slot_free exclude using gist (int4range(slot, slot, '[]') with &&) where (slot is not null);
alter table lab.order_lines
    add constraint order_lines_sku_known check (sku <> 'bad'),
    add constraint order_lines_carrier_known foreign key (sku) references lab.carriers deferrable initially deferred;
create function lab.judge() returns trigger language plpgsql as $$
begin
    if new.note = 'raise' then
        raise exception 'order % is not wanted', new.order_id;
    elsif new.note = 'raise 22023' then
        raise exception 'order % is not wanted', new.order_id using errcode = '22023';
    end if;
    return new;
end
$$;
create trigger judge before insert or update on lab.orders for each row execute function lab.judge();
create function lab.judge_later() returns trigger language plpgsql as $$
begin
    if new.note = 'raise later' then
        raise exception 'order % is not wanted', new.order_id
            using errcode = '23514', constraint = 'orders_judged_later', schema = 'lab', table = 'orders';
    end if;
    return null;
end
$$;
create constraint trigger judge_later after insert or update on lab.orders
deferrable initially deferred for each row execute function lab.judge_later();
create function lab.judge_line() returns trigger language plpgsql as $$
begin
    if new.quantity = 13 then
        raise exception 'line % is not wanted', new.line_no;
    end if;
    return new;
end
$$;
create trigger judge_line before insert or update on lab.order_lines for each row execute function lab.judge_line();
insert into lab.orders (order_id, ref, slot, etl_run, etl_batch, etl_place)
values ('there before', 'taken', -1, 0, 0, 0);
"""


@dataclass(frozen=True, kw_only=True)
class FaultKind:
    """A way to spoil an order, and the report of this fault: SQLSTATE, table, column and words of the reason."""

    spoil: Callable[[dict[str, Any]], object]
    sqlstate: str
    table: str | None = None
    column: str | None = None
    words: str = ""
    has_key: bool = True


def _set(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda order: order.update({name: value})


def _set_line(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda order: order["lines"].append({"sku": "north", "quantity": 1} | {name: value})


MAIN, LINES = "lab.orders", "lab.order_lines"

LONG = "".join(hashlib.sha256(str(number).encode()).hexdigest() for number in range(300))
"""Longer than an entry of an index may be, also compressed."""

FAULTS_OF_SERVER = {
    "check": FaultKind(
        spoil=_set("status", "bad"), sqlstate="23514", table=MAIN, words="orders_status_known: check violation"
    ),
    "unique": FaultKind(
        spoil=_set("ref", "taken"), sqlstate="23505", table=MAIN, words="orders_ref_once: unique violation"
    ),
    "foreign key": FaultKind(
        spoil=_set("carrier", "west"), sqlstate="23503", table=MAIN, words="orders_carrier_known: foreign key violation"
    ),
    "deferred foreign key": FaultKind(
        spoil=_set("depot", "west"), sqlstate="23503", table=MAIN, words="orders_depot_known: foreign key violation"
    ),
    "trigger": FaultKind(spoil=_set("note", "raise"), sqlstate="P0001", words="raise exception"),
    "trigger with a code": FaultKind(
        spoil=_set("note", "raise 22023"), sqlstate="22023", words="invalid parameter value"
    ),
    "deferred trigger": FaultKind(
        spoil=_set("note", "raise later"), sqlstate="23514", table=MAIN, words="orders_judged_later: check violation"
    ),
    "exclusion": FaultKind(
        spoil=_set("slot", -1), sqlstate="23P01", table=MAIN, words="orders_slot_free: exclusion violation"
    ),
    "generated column": FaultKind(spoil=_set("divisor", 0), sqlstate="22012", words="division by zero"),
    "overflow of a generated column": FaultKind(
        spoil=_set("amount", 400), sqlstate="22003", words="numeric value out of range"
    ),
    "domain": FaultKind(spoil=_set("code", "a1"), sqlstate="23514", words="order_code_form: check violation"),
    "length": FaultKind(spoil=_set("short", "longer"), sqlstate="22001", words="string data right truncation"),
    "enumeration": FaultKind(spoil=_set("kind", "crate"), sqlstate="22P02", words="invalid text representation"),
    "form of a type": FaultKind(
        spoil=_set("external_id", "no uuid"), sqlstate="22P02", words="invalid text representation"
    ),
    "index entry": FaultKind(spoil=_set("ref", LONG), sqlstate="54000", words="program limit exceeded"),
    "check of a child": FaultKind(
        spoil=_set_line("sku", "bad"), sqlstate="23514", table=LINES, words="order_lines_sku_known: check violation"
    ),
    "deferred foreign key of a child": FaultKind(
        spoil=_set_line("sku", "west"),
        sqlstate="23503",
        table=LINES,
        words="order_lines_carrier_known: foreign key violation",
    ),
    "trigger of a child": FaultKind(spoil=_set_line("quantity", 13), sqlstate="P0001", words="raise exception"),
}

FAULTS_OF_LOADER = {
    "misfit": FaultKind(
        spoil=_set("divisor", "three"), sqlstate="22P02", table=MAIN, column="divisor", words="expected a whole number"
    ),
    "violation": FaultKind(
        spoil=_set("amount", -1), sqlstate="23514", table=MAIN, column="amount", words="expected 0 or more"
    ),
    "no key": FaultKind(
        spoil=lambda order: order.pop("order_id"),
        sqlstate="23502",
        table=MAIN,
        column="order_id",
        words="expected a value",
        has_key=False,
    ),
    "misfit of a child": FaultKind(
        spoil=_set_line("quantity", "few"), sqlstate="22P02", table=LINES, column="quantity", words="element 3 of lines"
    ),
}

ALL_FAULTS = FAULTS_OF_SERVER | FAULTS_OF_LOADER


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site with the tables of `orders` and with the constraints that were added by hand."""
    site.define(ORDERS)
    site.ask(BY_HAND)
    return site


def _load(
    site: Site,
    path: Path,
    *,
    mode: Mode | None = None,
    batch_rows: int = 5_000,
    atomic: bool = False,
    force: bool = False,
) -> tuple[Summary, EtlError | None]:
    retries = RetrySettings(attempts=2, base_seconds=0.001, cap_seconds=0.001)
    return site.bring(path, "orders", mode=mode, batch_rows=batch_rows, atomic=atomic, force=force, retries=retries)


def _rejected(site: Site, run: str | None) -> dict[int, dict[str, Any]]:
    """Return the rejected records of a run by their numbers."""
    return {record["record"]: record for record in site.failures.records(run)}


def _loaded(site: Site) -> dict[str, list[str]]:
    """Return the skus of each order's lines, without the order of the setup."""
    query = """
        select o.order_id, (
            select coalesce(array_agg(l.sku order by l.line_no), '{}')
            from lab.order_lines l where l.order_id = o.order_id
        )
        from lab.orders o where o.order_id <> 'there before'
    """
    found = dict(site.ask(query))
    assert site.value("select count(*) from lab.order_lines") == sum(len(skus) for skus in found.values())
    return found


def _clear(site: Site) -> None:
    """Delete all but the order of the setup."""
    site.ask("truncate lab.order_lines; delete from lab.orders where order_id <> 'there before'")


SERIAL = count(1)


def _order(place: int, prefix: str) -> dict[str, Any]:
    """Return a good order with two lines."""
    return {
        "order_id": f"{prefix}{place}",
        "version": 1,
        "status": "new",
        "ref": None,
        "carrier": "north",
        "depot": "south",
        "code": "ABC",
        "short": "short",
        "kind": "pallet",
        "external_id": f"00000000-0000-0000-0000-{place:012}",
        "amount": 12.5,
        "divisor": 3,
        "slot": None,
        "note": "tab\tÅ",
        "lines": [{"sku": "north", "quantity": place + 100}, {"sku": "south", "quantity": place + 101}],
    }


def _orders(size: int, bad: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return orders of which those at the places of `bad` have the fault named there."""
    prefix = f"{next(SERIAL)}-"
    orders = [_order(place, prefix) for place in range(1, size + 1)]
    for place, fault in bad.items():
        ALL_FAULTS[fault].spoil(orders[place - 1])
    return orders


Shape = str


def _write(path: Path, orders: Sequence[Mapping[str, Any]], shape: Shape) -> list[tuple[int, bytes]]:
    """Write a source and return the byte offset and the text of each record."""
    before, between, after, indent = {
        "array": ("[", ",", "]\n", None),
        "pretty": ("\ufeff [\r\n", ",\n\n", "\n]", 2),
        "ndjson": ("\n", "\n", "\n", None),
        "dos": ("\ufeff", "\r\n", "\r\n", None),
        "values": ("", "", "", 1),
    }[shape]
    written = before.encode()
    places = []
    for number, order in enumerate(orders):
        text = json.dumps(order, indent=indent, ensure_ascii=number % 2 == 0).encode()
        text = text.replace(b"\n", b"\r\n") if shape == "pretty" else text
        written += between.encode() if number else b""
        places.append((len(written), text))
        written += text
    path.write_bytes(written + after.encode())
    return places


def _check_rejected(
    found: Mapping[int, Mapping[str, Any]],
    path: Path,
    orders: Sequence[Mapping[str, Any]],
    bad: Mapping[int, str],
    placed: Sequence[tuple[int, bytes]],
) -> None:
    """Check that only the bad records are rejected, with the place, the fault and the bytes of each."""
    assert sorted(found) == sorted(bad)
    with path.open("rb") as source:
        for number, record in found.items():
            kind = ALL_FAULTS[bad[number]]
            offset, text = placed[number - 1]
            source.seek(record["offset"])
            assert source.read(len(record["text"])) == text
            assert record["text"] == text.replace(b"\n", b" ").replace(b"\r", b" ")
            shown = {name: record[name] for name in ("record", "offset", "key", "table", "column", "sqlstate", "kind")}
            assert shown == {
                "record": number,
                "offset": offset,
                "key": orders[number - 1]["order_id"] if kind.has_key else None,
                "table": kind.table,
                "column": kind.column,
                "sqlstate": kind.sqlstate,
                "kind": "rejected",
            }, bad[number]
            assert kind.words in record["reason"], (bad[number], record["reason"])


def _good(orders: Sequence[Mapping[str, Any]], bad: Mapping[int, str]) -> dict[str, list[str]]:
    return {
        order["order_id"]: [line["sku"] for line in order["lines"]]
        for place, order in enumerate(orders, 1)
        if place not in bad
    }


@pytest.mark.parametrize("mode", [pytest.param("append", marks=pytest.mark.slow), "merge"])
def test_each_fault_rejects_only_its_records(site: Site, mode: Mode) -> None:
    """Each fault rejects its record with the child rows, and reports place, bytes and fault."""
    for fault in ALL_FAULTS:
        bad = dict.fromkeys((1, 10, 11, 100, 101, 137), fault)
        _load_and_check(site, f"{fault}.json", 137, bad, "array", mode=mode)


@pytest.mark.slow
def test_batches_of_every_size(site: Site) -> None:
    """Bad records at the borders of batches and of groups within them are found, for every batch size."""
    faults = list(FAULTS_OF_SERVER)
    places = (1, 7, 8, 10, 11, 20, 99, 100, 101, 102, 110, 111, 200, 201, 202, 203)
    bad = {place: faults[place % len(faults)] for place in places}
    for batch_rows in (1, 7, 100, 101, 5_000):
        _load_and_check(site, f"{batch_rows}.ndjson", 203, bad, "ndjson", mode="merge", batch_rows=batch_rows)


def test_every_record_bad(site: Site) -> None:
    """A source without a good record loads nothing and stores each record with its own fault."""
    faults = list(ALL_FAULTS)
    bad = {place: faults[place % len(faults)] for place in range(1, 231)}
    for mode in MODES:
        _load_and_check(site, f"{mode}.json", 230, bad, "pretty", mode=mode, batch_rows=100)


MODES: tuple[Mode, ...] = ("append", "merge")
SERVER_OR_LOADER = st.one_of(st.sampled_from(sorted(FAULTS_OF_SERVER)), st.sampled_from(sorted(ALL_FAULTS)))


@given(data=st.data())
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_bad_records(site: Site, data: st.DataObject) -> None:
    """For any bad records, faults, shape, mode and batches: the bad records are rejected, all others are loaded."""
    size = data.draw(st.integers(1, 240), "records")
    bad = data.draw(st.dictionaries(st.integers(1, size), SERVER_OR_LOADER, max_size=size), "bad")
    shape = data.draw(st.sampled_from(["array", "pretty", "ndjson", "dos", "values"]), "shape")
    mode = data.draw(st.sampled_from(MODES), "mode")
    batch_rows = data.draw(st.sampled_from([1, 7, 100, 101, 5_000]) if size < 50 else st.just(90), "batch_rows")
    _load_and_check(site, "orders", size, bad, shape, mode=mode, batch_rows=batch_rows)


def _load_and_check(
    site: Site,
    name: str,
    size: int,
    bad: Mapping[int, str],
    shape: Shape,
    *,
    mode: Mode,
    batch_rows: int = 5_000,
    atomic: bool = False,
) -> None:
    """Load orders of which some are bad, and check that only these are rejected and all others are loaded."""
    orders = _orders(size, bad)
    path = site.folder / name
    placed = _write(path, orders, shape)
    summary, error = _load(site, path, mode=mode, batch_rows=batch_rows, atomic=atomic)
    assert error is None
    assert (summary.exit_code, summary.status) == ((1, "loaded_with_rejects") if bad else (0, "loaded"))
    assert summary.records.read == size
    assert (summary.records.loaded, summary.records.rejected) == (size - len(bad), len(bad))
    assert summary.rows == {MAIN: size - len(bad), LINES: 2 * (size - len(bad))}
    assert site.value("select count(*) from lab.orders where etl_run > 0") == size - len(bad)
    _check_rejected(_rejected(site, summary.run), path, orders, bad, placed)
    assert _loaded(site) == _good(orders, bad)
    _clear(site)


@pytest.mark.parametrize("batch_rows", [4, 5_000])
def test_of_equal_keys_the_first_is_kept_in_append(site: Site, batch_rows: int) -> None:
    """Append keeps the first record of a key and rejects each later record, in the same batch and in another."""
    orders = _orders(120, {})
    for place, same_as in {2: 1, 10: 1, 11: 9, 100: 99, 101: 12, 120: 119}.items():
        orders[place - 1]["order_id"] = orders[same_as - 1]["order_id"]
    path = site.folder / "orders.json"
    placed = _write(path, orders, "array")
    summary, error = _load(site, path, mode="append", batch_rows=batch_rows)
    assert (error, summary.exit_code) == (None, 1)
    found = _rejected(site, summary.run)
    assert sorted(found) == [2, 10, 11, 100, 101, 120]
    for number, record in found.items():
        assert (record["offset"], record["text"]) == placed[number - 1]
        assert (record["key"], record["table"]) == (orders[number - 1]["order_id"], MAIN)
        assert record["sqlstate"] == "23505"
        assert "by the constraint orders_pkey: unique violation" in record["reason"]
    assert _loaded(site) == _good(orders, dict.fromkeys(found, ""))
    kept = site.ask("select external_id::text from lab.orders where etl_run > 0 order by 1")
    assert kept == [(order["external_id"],) for place, order in enumerate(orders, 1) if place not in found]


def test_a_refused_version_keeps_the_older_one(site: Site) -> None:
    """A refused newer version changes neither the older version nor its child rows, of this load or another."""
    orders = _orders(3, {})
    newer = [order | {"version": 2, "lines": [{"sku": "south", "quantity": 9}]} for order in orders]
    newer[1] |= {"status": "bad"}
    first, second = site.folder / "first.json", site.folder / "second.json"
    _write(first, [*orders, newer[1]], "array")
    _write(second, newer, "array")
    assert _load(site, first)[0].exit_code == 1
    assert _loaded(site) == {order["order_id"]: ["north", "south"] for order in orders}
    summary, _ = _load(site, second)
    assert (summary.records.loaded, summary.records.rejected) == (2, 1)
    assert list(_rejected(site, summary.run)) == [2]
    assert list(_loaded(site).values()).count(["south"]) == 2
    assert _loaded(site)[orders[1]["order_id"]] == ["north", "south"]
    versions = "select array_agg(version order by etl_run, etl_place) from lab.orders where etl_run > 0"
    assert site.value(versions) == [1, 2, 2]


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_rows_of_a_record_that_need_each_other_are_loaded(site: Site, mode: Mode) -> None:
    """Rows of a record that a constraint needs are inserted before it is checked, also beside bad records."""
    site.ask("delete from lab.orders")
    site.ask(
        "alter table lab.order_lines add constraint order_lines_once unique (order_id, line_no);"
        " alter table lab.orders add column first_line integer default 1,"
        " add constraint orders_first_line foreign key (order_id, first_line)"
        " references lab.order_lines (order_id, line_no) deferrable initially deferred"
    )
    bad = {3: "check", 120: "check", 187: "trigger", 204: "check of a child"}
    orders = _orders(230, bad)
    orders[150]["lines"] = []
    path = site.folder / "orders.json"
    _write(path, orders, "array")
    summary, error = _load(site, path, mode=mode)
    assert (error, summary.records.loaded) == (None, 225)
    found = _rejected(site, summary.run)
    assert sorted(found) == [3, 120, 151, 187, 204]
    assert (found[151]["sqlstate"], found[151]["table"]) == ("23503", MAIN)
    assert "orders_first_line: foreign key violation" in found[151]["reason"]
    assert _loaded(site) == _good(orders, dict.fromkeys(found, ""))


# Faults that the staging tables of an atomic run refuse: types, checks and generated columns.
SEEN_BY_STAGING = (
    "check",
    "generated column",
    "overflow of a generated column",
    "domain",
    "length",
    "enumeration",
    "form of a type",
    "check of a child",
)


@pytest.mark.parametrize(
    "mode", [*(pytest.param(each, marks=pytest.mark.slow) for each in ("append", "merge")), "replace"]
)
def test_an_atomic_run_rejects_faults_of_the_staging_tables(site: Site, mode: Mode) -> None:
    """The bad records are rejected one by one before publication; the report names the fact tables."""
    faults = [*SEEN_BY_STAGING, *FAULTS_OF_LOADER]
    bad = {place: faults[place % len(faults)] for place in (1, 2, 3, 10, 11, 99, 100, 101, 110, 150, 151, 152, 203)}
    if mode == "replace":
        site.ask("delete from lab.orders")
    _load_and_check(site, "orders.json", 203, bad, "pretty", mode=mode, batch_rows=101, atomic=True)


@pytest.mark.parametrize(
    "mode", ["append", *(pytest.param(each, marks=pytest.mark.slow) for each in ("merge", "replace"))]
)
def test_faults_of_the_fact_tables_stop_an_atomic_run(site: Site, mode: Mode) -> None:
    """A fault at publication is exit 2 with the record and a reason without values; all rows stay withheld."""
    # Rows that a replace removes conflict with no new row.
    faults = set(FAULTS_OF_SERVER) - set(SEEN_BY_STAGING) - ({"unique", "exclusion"} if mode == "replace" else set())
    for fault in sorted(faults):
        path = site.folder / f"{fault}.json"
        _write(path, _orders(30, {5: "check", 20: fault}), "array")
        words = FAULTS_OF_SERVER[fault].words.rpartition(": ")[2]
        for attempt, counts in enumerate([(0, 1, 0, 29), (0, 0, 30, 0)], 1):
            summary, error = _load(site, path, mode=mode, batch_rows=8, atomic=True)
            assert error is not None, fault
            assert (summary.exit_code, summary.status) == (2, "incomplete"), attempt
            assert str(error).startswith(f"the rows of run {summary.run} cannot become visible together: record 20: ")
            assert words.lower() in str(error)
            assert "not wanted" not in str(error)
            records = summary.records
            assert (records.loaded, records.rejected, records.skipped, records.withheld) == counts
            assert (_loaded(site), site.value("select count(*) from lab.orders")) == ({}, 1)


def test_force_isolates_faults_that_stop_an_atomic_run(site: Site) -> None:
    """Records that cannot be published together are loaded by --force without --atomic, but for the bad ones."""
    orders = _orders(30, {20: "unique"})
    path = site.folder / "orders.json"
    placed = _write(path, orders, "array")
    assert _load(site, path, atomic=True)[0].exit_code == 2
    # A forced run that cannot be published does not block a run with other options.
    assert _load(site, path, atomic=True, force=True)[0].exit_code == 2
    summary, error = _load(site, path, force=True)
    assert (error, summary.exit_code, summary.records.loaded) == (None, 1, 29)
    _check_rejected(_rejected(site, summary.run), path, orders, {20: "unique"}, placed)
    assert _loaded(site) == _good(orders, {20: "unique"})


def _raise(site: Site, sqlstate: str, *, once: bool = False) -> None:
    """Let the server raise an error for an order whose note is `stop`, always or once."""
    site.ask("drop sequence if exists lab.tries; create sequence lab.tries; drop trigger if exists fault on lab.orders")
    stop = f"raise exception 'stopped' using errcode = '{sqlstate}';"
    body = f"if nextval('lab.tries') = 1 then {stop} end if;" if once else stop
    site.on_insert("lab.orders", "new.note = 'stop'", body)


def test_a_passing_fault_within_isolation_is_tried_again(site: Site) -> None:
    """A transient fault during isolation rejects no record: the batch is isolated once more."""
    bad = {3: "check", 17: "foreign key"}
    for sqlstate in ("40P01", "40001", "55P03", "57014", "53200", "57P01"):
        _raise(site, sqlstate, once=True)
        orders = _orders(20, bad)
        orders[9]["note"] = "stop"
        path = site.folder / f"{sqlstate}.json"
        placed = _write(path, orders, "array")
        summary, error = _load(site, path)
        assert (error, summary.exit_code) == (None, 1)
        assert summary.batches == {"loaded": 1, "failed": 0, "retried": 1}
        _check_rejected(_rejected(site, summary.run), path, orders, bad, placed)
        assert _loaded(site) == _good(orders, bad)
        _clear(site)


@pytest.mark.parametrize("sqlstate", ["40P01", "57014"])
def test_a_batch_whose_isolation_is_blocked_fails(site: Site, sqlstate: str) -> None:
    """After the last try an isolated batch waits as a failed batch, and the load continues with the next."""
    _raise(site, sqlstate)
    orders = _orders(30, {3: "check", 5: "misfit", 27: "check"})
    orders[9]["note"] = "stop"
    path = site.folder / "orders.json"
    placed = _write(path, orders, "array")
    summary, error = _load(site, path, batch_rows=20)
    assert (error, summary.exit_code, summary.status) == (None, 1, "loaded_with_rejects")
    assert summary.batches == {"loaded": 1, "failed": 1, "retried": 1}
    records = summary.records
    assert (records.loaded, records.rejected, records.failed, records.pending) == (9, 2, 19, 21)
    found = _rejected(site, summary.run)
    assert {number for number, record in found.items() if record["kind"] == "rejected"} == {5, 27}
    failed = {number: record for number, record in found.items() if record["kind"] == "failed"}
    assert sorted(failed) == [number for number in range(1, 21) if number != 5]
    assert {record["sqlstate"] for record in failed.values()} == {sqlstate}
    assert [(record["offset"], record["text"]) for _, record in sorted(failed.items())] == [
        place for number, place in enumerate(placed[:20], 1) if number != 5
    ]
    assert set(_loaded(site)) == {order["order_id"] for number, order in enumerate(orders, 1) if number not in found}


def test_a_fault_of_the_server_ends_the_load(site: Site) -> None:
    """A fault of the server or its setup during isolation is 2 or 4 and rejects nothing; the next load continues."""
    bad = {3: "check", 14: "check", 27: "check"}
    for sqlstate, exit_code in (("42883", 2), ("55000", 2), ("XX000", 4), ("53100", 4), ("57P03", 4)):
        _raise(site, sqlstate)
        orders = _orders(30, bad)
        orders[16]["note"] = "stop"
        path = site.folder / f"{sqlstate}.json"
        placed = _write(path, orders, "array")
        summary, error = _load(site, path, batch_rows=10)
        assert error is not None
        assert sqlstate in str(error)
        assert (summary.exit_code, summary.status) == (exit_code, "incomplete")
        assert (summary.records.loaded, summary.records.rejected, summary.records.failed) == (9, 1, 0)
        assert len(_loaded(site)) == 9
        site.ask("drop trigger fault on lab.orders")
        summary, error = _load(site, path, batch_rows=10)
        assert (error, summary.exit_code, summary.records.skipped) == (None, 1, 10)
        _check_rejected(_rejected(site, summary.run), path, orders, bad, placed)
        assert _loaded(site) == _good(orders, bad)
        _clear(site)


@pytest.mark.parametrize(
    "arguments", [pytest.param(["--mode", "append"], marks=pytest.mark.slow), ["--mode", "merge"], ["--atomic"]]
)
def test_the_command_isolates(site: Site, arguments: Sequence[str]) -> None:
    """`etl load` of a source with faults of server and loader ends with 1, and its summary adds up."""
    faults = [*(SEEN_BY_STAGING if "--atomic" in arguments else FAULTS_OF_SERVER), *FAULTS_OF_LOADER]
    bad = {place * 11: fault for place, fault in enumerate(faults, 1)}
    orders = _orders(300, bad)
    path = site.folder / "orders.ndjson"
    placed = _write(path, orders, "dos")
    done = site.run("load", "orders", path, "--json", "--batch-rows", "130", *arguments)
    assert done.returncode == 1, done.stderr
    summary = done.summary
    assert summary["records"] == {
        "read": 300,
        "loaded": 300 - len(bad),
        "unchanged": 0,
        "rejected": len(bad),
        "failed": 0,
        "skipped": 0,
        "withheld": 0,
        "pending": len(bad),
    }
    _check_rejected(_rejected(site, summary["run"]), path, orders, bad, placed)
    assert _loaded(site) == _good(orders, bad)
    assert "not wanted" not in done.stderr
