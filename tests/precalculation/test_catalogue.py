from dataclasses import replace
from pathlib import Path

import pytest

from etl.errors import DefinitionError, UsageError
from etl.precalculation.buckets import BucketRange
from etl.precalculation.catalogue import Aggregate, Fact, aggregates_reading, choose, look, read_all
from etl.precalculation.installation import install
from etl.precalculation.pending import is_known
from etl.precalculation.refresh import refresh
from etl.settings import shipped
from tests.support.faults import Connection
from tests.support.site import Site

HEAD = [
    "-- One row per day.",
    "-- table: analytics.days",
    "-- bucket: day",
    "-- fact logistics.shipments: (created_at at time zone 'UTC')::date",
    "-- newest: logistics.shipments.created_at",
    "-- key: day",
    "-- column day: day (UTC) of creation",
    "-- column count_shipments: shipments",
]
SELECT = [
    "select (created_at at time zone 'UTC')::date as day, count(*) as count_shipments",
    "from logistics.shipments",
    "where created_at >= :from_utc and created_at < :until_utc",
    "group by day",
]


def _write(config_dir: Path, lines: list[str], name: str = "days") -> Path:
    path = config_dir / "aggregates" / f"{name}.sql"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _read(config_dir: Path, lines: list[str]) -> Aggregate:
    _write(config_dir, lines)
    (aggregate,) = choose(["days"], config_dir)
    return aggregate


def test_a_file_becomes_an_aggregate(tmp_path: Path) -> None:
    """Each line of the head becomes a part of the value, and the text after the head is the select."""
    assert _read(tmp_path, HEAD + SELECT) == Aggregate(
        name="days",
        table="analytics.days",
        grain="One row per day.",
        bucket="day",
        bucket_column="day",
        facts=(Fact(table="logistics.shipments", noted="(created_at at time zone 'UTC')::date"),),
        newest=("logistics.shipments", "created_at"),
        key=("day",),
        columns=(("day", "day (UTC) of creation"), ("count_shipments", "shipments")),
        select="\n".join(SELECT),
        path=str(tmp_path / "aggregates" / "days.sql"),
    )


def test_the_column_of_the_buckets_may_have_a_name_of_its_own(tmp_path: Path) -> None:
    """A day that is not in UTC is called what it is: the head names the column of the key that holds the buckets."""
    lines = [line.replace("-- bucket: day", "-- bucket: day in source_day") for line in HEAD + SELECT]
    lines = [line.replace("key: day", "key: source_day").replace("column day:", "column source_day:") for line in lines]
    aggregate = _read(tmp_path, lines)
    assert (aggregate.bucket, aggregate.bucket_column, aggregate.key) == ("day", "source_day", ("source_day",))
    with pytest.raises(DefinitionError, match="the bucket local_day in the key, got source_day"):
        _read(tmp_path, [line.replace("in source_day", "in local_day") for line in lines])


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (1, "-- Shipments of a day.", "at line 1"),
        (1, "-- One row per day", "at line 1"),
        (2, "-- table: days", "at line 2"),
        (2, "-- table: analytics.weeks", r"the table analytics\.days"),
        (3, "-- bucket: fortnight", "-- bucket: hour . day . week . month . quarter . all.*at line 3"),
        (4, "-- fact shipments: created_at", "at line 4"),
        (4, "-- fact logistics.shipments", "'-- fact SCHEMA.TABLE: DAY'.* at line 4"),
        (4, "-- fact logistics.shipments: log_id -> logistics.vehicle_logs.log_id", "fact logistics.vehicle_logs: DAY"),
        (5, "-- newest: created_at", "at line 5"),
        (5, "-- newest: logistics.vehicles.name", "the newest of a fact"),
        (6, "-- key:", "at line 6"),
        (6, "-- key: Day", "at line 6"),
        (6, "-- key: count_shipments", "the bucket day in the key"),
        (7, "-- column day", "at line 7"),
        (7, "-- day: day (UTC) of creation", "at line 7"),
        (8, "-- and more of it", "at line 8"),
        (9, "delete from logistics.shipments", "one select"),
        (11, "where created_at >= :from_utc", ":from and :until"),
        (12, "group by day;", "one select"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: int, text: str, message: str) -> None:
    """The message names the fault, the file and, in the head, the line."""
    lines = HEAD + SELECT
    lines[line - 1] = text
    with pytest.raises(DefinitionError, match=message) as caught:
        _read(tmp_path, lines)
    assert "days.sql" in str(caught.value)


def test_an_aggregate_of_one_bucket_takes_no_range(tmp_path: Path) -> None:
    """With `bucket: all` a day or a range is refused, because neither makes sense."""
    whole = [*HEAD[:2], "-- bucket: all", "-- fact logistics.shipments", *HEAD[4:], *SELECT[:2], SELECT[3]]
    assert _read(tmp_path, whole).facts == (Fact(table="logistics.shipments"),)
    with pytest.raises(DefinitionError, match=r"'-- fact SCHEMA\.TABLE'"):
        _read(tmp_path, [*whole[:3], HEAD[3], *whole[4:]])
    with pytest.raises(DefinitionError, match="no range"):
        _read(tmp_path, [*HEAD[:2], "-- bucket: all", "-- fact logistics.shipments", *HEAD[4:], *SELECT])


def test_a_range_replaces_its_names_in_the_select(tmp_path: Path) -> None:
    """Days and instants of the range replace the four names, and no similar text."""
    lines = [
        *HEAD,
        *SELECT[:2],
        "where created_at::date >= :from and x = ':fromage' and created_at < :until_utc",
        ":until :from_utc",
    ]
    text = _read(tmp_path, lines).computed(BucketRange(first="2026-03-01", until="2026-03-08")).as_string()
    assert text.endswith(
        "where created_at::date >= date '2026-03-01' and x = ':fromage' "
        "and created_at < (date '2026-03-08'::timestamp at time zone 'UTC')\n"
        "date '2026-03-08' (date '2026-03-01'::timestamp at time zone 'UTC')"
    )


@pytest.mark.parametrize("count_lines", range(len(HEAD) + 1))
def test_a_file_that_ends_early_is_refused(tmp_path: Path, count_lines: int) -> None:
    """A head without a select, or a part of a head, is no aggregate."""
    with pytest.raises(DefinitionError, match=r"days\.sql"):
        _read(tmp_path, HEAD[:count_lines])


@pytest.mark.parametrize(
    "columns",
    [
        ["-- column day: day"],
        ["-- column count_shipments: shipments"],
        [HEAD[6], HEAD[7], HEAD[7]],
    ],
    ids=["only the key", "no key", "one twice"],
)
def test_columns_that_make_no_table_are_refused(tmp_path: Path, columns: list[str]) -> None:
    """The head names each column once, the key among them and another column."""
    with pytest.raises(DefinitionError, match=r"days\.sql"):
        _read(tmp_path, [*HEAD[:6], *columns, *SELECT])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Another encoding, a folder and a broken link are wrong definitions; a byte-order mark is accepted."""
    path = _write(tmp_path, [*HEAD, *SELECT])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_all(tmp_path)
    path.write_bytes(b"-- One row per d\xe9p\xf4t.\n")
    with pytest.raises(DefinitionError, match=r"cannot read .*days\.sql: it is not UTF-8"):
        read_all(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DefinitionError, match=r"cannot read .*days\.sql: is a directory"):
        read_all(tmp_path)
    path.rmdir()
    path.symlink_to(tmp_path / "nothing")
    with pytest.raises(DefinitionError, match=r"cannot read .*days\.sql: no such file"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    ("name", "is_wrong"), [("days.txt", True), ("days", True), ("days.SQL", True), ("days.sql~", False)]
)
def test_an_aggregate_with_another_ending_is_not_ignored_without_a_word(
    tmp_path: Path, name: str, is_wrong: bool
) -> None:
    """The error names the file and the command that renames it; copies and other texts are left alone."""
    path = _write(tmp_path, [*HEAD, *SELECT])
    path.rename(path.parent / name)
    (path.parent / "README.txt").write_text("About our aggregates.\n")
    wrong = look(tmp_path)[1]
    assert [error.hint for error in wrong.values()] == ([f"mv {path.parent / name} {path}"] if is_wrong else [])
    if is_wrong:
        with pytest.raises(DefinitionError, match=r"the file of an aggregate ends with \.sql"):
            read_all(tmp_path)


def test_the_shipped_aggregates_are_found_by_name() -> None:
    """Without a name all aggregates are returned, sorted by name."""
    names = [aggregate.name for aggregate in choose([])]
    assert names == sorted(path.stem for path in (shipped("sql") / "aggregates").glob("*.sql"))
    assert {"daily_shipments", "milestone_durations", "vehicle_days"} < set(names)
    assert [aggregate.name for aggregate in choose(["vehicle_days", "daily_shipments"])] == [
        "daily_shipments",
        "vehicle_days",
    ]


def test_an_unknown_aggregate_is_answered_with_the_nearest_name() -> None:
    """The error for a misspelt name suggests the nearest name."""
    with pytest.raises(UsageError, match="no aggregate is called 'daily_shipment'") as caught:
        choose(["vehicle_days", "daily_shipment"])
    assert caught.value.hint == "did you mean daily_shipments?"


def test_aggregates_are_found_by_the_facts_they_read() -> None:
    """A fact table leads to every aggregate that has to be refreshed after a change."""
    names = ["data_quality", "lane_emissions", "shipment_orphans", "vehicle_days"]
    assert [a.name for a in aggregates_reading(["logistics.vehicle_logs"])] == names
    assert aggregates_reading(["logistics.shipments", "logistics.tracking_events"]) == read_all()
    assert aggregates_reading(["logistics.shipment_items"]) == ()


def test_every_aggregate_documents_itself_in_the_database(connection: Connection) -> None:
    """The grain, the key and the description of each column are the same in the database and in the file."""
    for aggregate in read_all():
        found = connection.execute(
            "select obj_description(%(table)s::regclass), "
            "array_agg((attname, col_description(attrelid, attnum))::text order by attnum) "
            "from pg_attribute where attrelid = %(table)s::regclass and attnum > 0 and not attisdropped",
            {"table": aggregate.table},
        ).fetchone()
        written = connection.execute(
            "select %s, array_agg((name, comment)::text order by place) "
            "from unnest(%s::name[], %s::text[]) with ordinality as columns (name, comment, place)",
            [
                aggregate.grain,
                [name for name, _ in aggregate.columns],
                [text for _, text in aggregate.columns],
            ],
        ).fetchone()
        assert found == written
        key = connection.execute(
            "select pg_get_constraintdef(oid) from pg_constraint where conrelid = %s::regclass and contype = 'p'",
            [aggregate.table],
        ).fetchone()
        assert key == (f"PRIMARY KEY ({', '.join(aggregate.key)})",)


def test_installing_again_changes_nothing(connection: Connection) -> None:
    """The tables remain the same, with their rows and freshness."""
    connection.execute(
        "insert into logistics.shipments (shipment_id, created_at, etl_run, etl_batch, etl_place) "
        "values ('S1', '2026-03-01', 1, 0, 1)"
    )
    for aggregate in read_all():
        refresh(connection, aggregate, run=None)
    state = (
        "select (select array_agg(oid::text || relname || relacl::text order by oid) from pg_class "
        "where relnamespace = 'analytics'::regnamespace), "
        "(select array_agg(r.*::text order by aggregate) from etl.refreshes as r), "
        "(select array_agg(d.*::text) from analytics.daily_shipments as d)"
    )
    before = connection.execute(state).fetchone()
    assert install(connection, read_all(), {}) == []
    assert connection.execute(state).fetchone() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("count(*) as count_shipments", "count(*)::numeric as count_shipments"),
        ("count(*) as count_shipments", "sum(pieces) as sum_pieces, count(*) as count_shipments"),
        ("-- key: day", "-- key: day, count_shipments"),
    ],
    ids=["another type", "one more column", "another key"],
)
def test_an_aggregate_of_another_shape_is_made_anew(connection: Connection, tmp_path: Path, old: str, new: str) -> None:
    """A newer definition with other columns or key replaces the table, which then has to be refreshed."""
    first = _read(tmp_path, HEAD + SELECT)
    assert install(connection, [first], {}) == ["analytics.days"]
    refresh(connection, first, run=None)
    text = "\n".join(HEAD + SELECT).replace(old, new)
    if "sum_pieces" in new:
        text = text.replace(HEAD[7], f"-- column sum_pieces: pieces\n{HEAD[7]}")
    if "key" in new:
        text = text.replace("select (", "select 1 as sum_more, (").replace(
            HEAD[6], f"-- column sum_more: one\n{HEAD[6]}"
        )
    second = _read(tmp_path, text.splitlines())
    assert install(connection, [second], {}) == ["analytics.days"]
    assert not is_known(connection, second)
    refresh(connection, second, run=None)
    assert install(connection, [second], {}) == []
    assert is_known(connection, second)


def test_columns_at_the_end_are_added(connection: Connection, tmp_path: Path) -> None:
    """A newer definition with more columns keeps the table with its rows, its rights, and the views on it."""
    connection.execute(
        "insert into logistics.shipments (shipment_id, created_at, etl_run, etl_batch, etl_place) "
        "values ('S1', '2026-03-01', 1, 0, 1)"
    )
    first = _read(tmp_path, HEAD + SELECT)
    install(connection, [first], {})
    refresh(connection, first, run=None)
    connection.execute("create view analytics.mine as select * from analytics.days")
    text = "\n".join(HEAD + SELECT).replace(HEAD[-1], f"{HEAD[-1]}\n-- column sum_pieces: pieces")
    text = text.replace(
        "count(*) as count_shipments", "count(*) as count_shipments, sum(pieces)::numeric(9, 2) as sum_pieces"
    )
    second = _read(tmp_path, text.splitlines())
    assert install(connection, [second], {}) == []
    assert not is_known(connection, second)
    days = "select count_shipments, sum_pieces from analytics.days"
    assert connection.execute(days).fetchall() == [(1, None)]
    connection.execute("update logistics.shipments set pieces = 3")
    refresh(connection, second, run=None)
    assert connection.execute(days).fetchall() == [(1, 3)]
    assert connection.execute("select count_shipments from analytics.mine").fetchall() == [(1,)]
    assert install(connection, [second], {}) == []
    assert is_known(connection, second)


def test_a_view_over_an_old_table_is_not_dropped_silently(connection: Connection, tmp_path: Path) -> None:
    """Views of analysts on an aggregate are named, and the old table stays."""
    first = _read(tmp_path, HEAD + SELECT)
    install(connection, [first], {})
    connection.execute("create view analytics.mine as select * from analytics.days")
    changed = replace(first, select=first.select.replace("count(*)", "count(*)::numeric"))
    with pytest.raises(UsageError, match=r"view analytics\.mine depends on table analytics\.days"):
        install(connection, [changed], {})
    assert install(connection, [first], {}) == []


def test_a_select_that_gives_other_columns_than_the_head_is_refused(connection: Connection, tmp_path: Path) -> None:
    """Head and select are compared before a table is created."""
    aggregate = _read(tmp_path, [*HEAD[:7], "-- column count_trips: trips", *SELECT])
    with pytest.raises(DefinitionError, match=r"day, count_trips.*got day, count_shipments.*days\.sql"):
        install(connection, [aggregate], {})
    assert connection.execute("select to_regclass('analytics.days')").fetchone() == (None,)


def test_a_fact_that_lacks_a_column_is_named(connection: Connection, tmp_path: Path) -> None:
    """The error for a fact table without a column of the aggregate names the column and the file."""
    connection.execute("alter table logistics.shipments rename created_at to made_at")
    with pytest.raises(DefinitionError, match=r"created_at does not exist.*carrier_performance\.sql"):
        install(connection, read_all(), {})


def test_a_table_is_of_a_dataset_or_of_an_aggregate(site: Site) -> None:
    """A dataset for the table of an aggregate is refused, and so is an aggregate for the table of a dataset."""
    text = 'name = "own"\n[[table]]\nname = "analytics.{}"\n[table.columns]\nid = "text"\n'
    for name in ("daily_shipments", "freshness"):
        site.write_definition(text.format(name))
        (site.folder / "own.ndjson").write_text('{"id": "1"}')
        for command in (("dataset", "create", "own"), ("load", "own", "own.ndjson"), ("db", "migrate")):
            done = site.run(*command)
            assert done.returncode == 2
            assert f"analytics.{name} is computed from facts" in done.error
    site.write_definition(text.format("mine"))
    assert site.run("dataset", "create", "own").returncode == 0
    assert site.run("load", "own", "own.ndjson").returncode == 0
    (site.folder / "config" / "aggregates").mkdir()
    (site.folder / "config" / "aggregates" / "mine.sql").write_text(
        "-- One row per day.\n-- table: analytics.mine\n-- bucket: all\n-- fact logistics.shipments\n"
        "-- newest: logistics.shipments.created_at\n-- key: carrier\n"
        "-- column carrier: carrier\n-- column n: shipments\n"
        "select coalesce(carrier, '') as carrier, count(*) as n from logistics.shipments group by 1\n"
    )
    done = site.run("db", "migrate")
    assert done.returncode == 2
    assert "analytics.mine holds the rows of a dataset" in done.error
    assert site.column("select id from analytics.mine") == ["1"]
