"""The histories of tables in the database: they are made, extended and checked; no load loses versions."""

import re
from pathlib import Path
from typing import LiteralString

import pytest
from psycopg.conninfo import make_conninfo

from etl.database import row_history
from etl.database.comparison import compare
from etl.database.tables import create_tables, require_tables
from etl.datasets import read
from etl.errors import DefinitionError, UsageError
from etl.settings import shipped
from tests.support.site import Site

DEFINITION = """
name = "parcels"
mode = "merge"
key = ["id"]
[[table]]
name = "lab.parcels"
history = true
[table.columns]
id = { type = "integer", required = true }
carrier = { type = "text", comment = "who carries" }
[[table]]
name = "lab.items"
each = "items"
[table.columns]
id = { path = "^.id", type = "integer" }
sku = "text"
"""


def _load(site: Site, number: int, record: str) -> tuple[int, str]:
    (site.folder / f"{number}.ndjson").write_text(record)
    ended = site.run("load", "parcels", f"{number}.ndjson", "--no-precalculate")
    return ended.returncode, ended.stderr


def _kept(site: Site) -> list[tuple[object, ...]]:
    return site.ask(
        "select id, carrier, valid_from is null, ended_by is null from lab.parcels_history order by valid_to"
    )


def test_a_table_gets_a_history_later_and_loses_it(site: Site) -> None:
    """The rows of before have no begin; a new column is kept; without the option nothing is kept any more."""
    site.define(DEFINITION.replace("history = true", ""))
    assert _load(site, 1, '{"id": 1, "carrier": "A"}')[0] == 0
    site.write_definition(DEFINITION)
    code, said = _load(site, 2, '{"id": 1, "carrier": "B"}')
    assert code == 2
    assert "lab.parcels_history is missing" in said
    assert "etl dataset create parcels" in said
    made = site.run("dataset", "create", "parcels", "--json").lines[0]["made"]
    assert made["tables"] == ["lab.items_history", "lab.parcels_history"]
    assert not any(site.run("dataset", "create", "parcels", "--json").lines[0]["made"].values())
    assert _load(site, 2, '{"id": 1, "carrier": "B"}')[0] == 0
    assert _kept(site) == [(1, "A", True, False)]
    items = '[[table]]\nname = "lab.items"'
    wider = DEFINITION.replace(items, f'weight = "numeric"\n{items}')
    site.write_definition(wider)
    assert site.run("dataset", "create", "parcels").returncode == 0
    assert _load(site, 3, '{"id": 1, "carrier": "B", "weight": 7}')[0] == 0
    assert _load(site, 4, '{"id": 1, "carrier": "B", "weight": 8}')[0] == 0
    assert site.column("select weight from lab.parcels_history order by valid_to") == [None, None, 7]
    assert site.run("dataset", "check", "parcels").returncode == 0
    comment = "versions of the rows of lab.parcels that a change or a deletion ended"
    assert site.value("select obj_description('lab.parcels_history'::regclass)") == comment
    assert site.value("select col_description('lab.parcels_history'::regclass, 2)") == "who carries"
    site.define(wider.replace("history = true", "").replace('name = "parcels"', 'name = "others"'))
    assert site.value("select count(*) from etl.histories") == 1, "another dataset of the table keeps it"
    site.write_definition(wider.replace("history = true", ""))
    assert site.run("dataset", "create", "parcels").returncode == 0
    assert _load(site, 5, '{"id": 1, "carrier": "C", "weight": 8}')[0] == 0
    assert len(_kept(site)) == 3
    assert site.value("select count(*) from etl.histories") == 0


def test_a_load_that_would_lose_versions_ends(site: Site) -> None:
    """A missing trigger or history, a missing or narrower column: exit code 2 with the remedy, which helps."""
    site.define(DEFINITION)
    faults: list[tuple[LiteralString, str]] = [
        ("alter table lab.parcels disable trigger etl_history_update", "no trigger etl_history_update"),
        ("drop trigger etl_history_delete on lab.items", "no trigger etl_history_delete"),
        ("drop table lab.items_history", "lab.items_history is missing"),
        ("alter table lab.parcels_history drop column carrier", "column carrier of lab.parcels_history is missing"),
        ("alter table lab.parcels_history alter carrier type varchar(3)", "is character varying(3)"),
        ("alter table lab.items_history alter sku set not null", "refuses null"),
        ("alter table lab.parcels drop column etl_valid_from", "etl_valid_from of lab.parcels is missing"),
        ("alter table lab.items alter id type bigint", "is integer, and that of lab.items is bigint"),
    ]
    dataset = read(site.folder / "config" / "datasets" / "parcels.toml")
    for fault, said in faults:
        site.ask(fault)
        with pytest.raises(UsageError, match=re.escape(said)) as error:
            require_tables(site.connection, dataset)
        remedy = str(error.value.hint)
        assert remedy in {each.remedy.removesuffix(";") for each in compare(site.connection, dataset)}, fault
        if remedy.startswith("alter"):
            site.ask(remedy)
        else:
            create_tables(site.connection, dataset)
        require_tables(site.connection, dataset)
    site.ask("alter table lab.parcels disable trigger etl_history_update")
    code, error_text = _load(site, 1, '{"id": 1, "carrier": "A"}')
    assert code == 2
    assert "hint: etl dataset create parcels" in error_text
    # After a gap the history begins again.
    before = site.value("select since from etl.histories")
    create_tables(site.connection, dataset)
    assert site.value("select since from etl.histories") > before


def test_a_history_that_lost_versions_begins_again(site: Site) -> None:
    """A dropped history, and a renamed column, whose versions have its values by the old name: no undo needs these."""
    site.define(DEFINITION)
    begun = [site.value("select since from etl.histories")]
    renamed = DEFINITION.replace("carrier = {", 'haulier = { path = "carrier",')
    losses: list[tuple[LiteralString, str]] = [
        ("drop table lab.parcels_history", DEFINITION),
        ("alter table lab.parcels add note text", DEFINITION),
        ("alter table lab.parcels rename carrier to haulier", renamed),
    ]
    for number, (loss, definition) in enumerate(losses):
        assert _load(site, number, f'{{"id": 1, "carrier": "{number}"}}')[0] == 0
        site.ask(loss)
        site.write_definition(definition)
        assert site.run("dataset", "create", "parcels").returncode == 0
        begun.append(site.value("select since from etl.histories"))
    assert begun[0] < begun[1] == begun[2] < begun[3], "a new column loses nothing"
    assert _load(site, 3, '{"id": 1, "carrier": "D"}')[0] == 0


def test_a_type_changes_by_the_remedy(site: Site) -> None:
    """The server changes no type of a column that the trigger compares, so the remedy drops the trigger before."""
    site.define(DEFINITION)
    path = site.write_definition(DEFINITION.replace('"integer"', '"bigint"'))
    for _ in range(2):  # the table, then its history
        for each in compare(site.connection, read(path)):
            if each.remedy.startswith(("drop", "alter")):
                site.ask(each.remedy)
    assert site.run("dataset", "create", "parcels").returncode == 0
    assert site.run("dataset", "check", "parcels").returncode == 0


def test_a_migration_renames_the_triggers_of_before(site: Site) -> None:
    """A table of before keeps its history, without a gap."""
    site.define(DEFINITION)
    since = site.value("select since from etl.histories")
    site.ask('alter trigger "~etl_history_began" on lab.parcels rename to etl_history_began')
    site.ask((shipped("sql") / "migrations" / "0036_last_history_triggers.sql").read_text(encoding="utf-8"))
    assert _load(site, 1, '{"id": 1, "carrier": "A"}')[0] == 0
    assert site.value("select since from etl.histories") == since


def test_a_loader_keeps_versions_and_an_analyst_reads_them(site: Site) -> None:
    """The loader needs no right of an owner, row-level security of another role hides nothing from the triggers."""
    site.define(DEFINITION)
    site.ask("create role keeper login in role etl_loader; create role reader login in role etl_analyst")
    try:
        loader = make_conninfo(site.conninfo, user="keeper")
        for number, carrier in enumerate("AB"):
            (site.folder / f"{number}.ndjson").write_text(f'{{"id": 1, "carrier": "{carrier}", "items": [{{}}]}}')
            ended = site.run("load", "parcels", f"{number}.ndjson", "--no-precalculate", conninfo=loader)
            assert ended.returncode == 0, ended.stderr
        site.ask("set role reader")
        assert site.ask("select carrier from lab.parcels_history union all select sku from lab.items_history") == [
            ("A",),
            (None,),
        ]
    finally:
        site.ask("reset role; drop owned by keeper; drop role keeper; drop owned by reader; drop role reader")


def test_analysts_read_no_versions_of_hidden_rows(site: Site) -> None:
    """Where a policy hides rows of the table, its history and its deletions need policies before analysts read them."""
    definition = DEFINITION.replace('key = ["id"]', 'key = ["id"]\ndelete_if = { gone = true }')
    dataset = site.define(definition)
    made = ("lab.parcels_history", "lab.parcels_deleted")
    site.ask("revoke all on lab.parcels_history, lab.parcels_deleted from etl_analyst")
    site.ask("alter table lab.parcels enable row level security")
    create_tables(site.connection, dataset)
    reads = "select has_table_privilege('etl_analyst', name, 'select') from unnest(%s::text[]) as name"
    assert site.column(reads, [list(made)]) == [False, False]
    assert site.value("select has_table_privilege('etl_loader', 'lab.parcels_history', 'delete')")
    assert any(each.found.startswith("shows all rows") for each in compare(site.connection, dataset))
    site.ask("alter table lab.parcels_history enable row level security")
    site.ask("alter table lab.parcels_deleted enable row level security")
    create_tables(site.connection, dataset)
    assert site.column(reads, [list(made)]) == [True, True]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('mode = "merge"\nkey = ["id"]', "", "history expects `key`"),
        ('mode = "merge"', 'mode = "replace"', "history and mode replace exclude each other"),
        ("carrier = {", "valid_to = {", "table lab.parcels, column valid_to: a history has a column of this name"),
        ('each = "items"', 'each = "items"\nhistory = true', "their child rows are kept, too"),
        ('"lab.items"', '"lab.parcels_history"', "the definition has one of this name"),
        ("lab.parcels", f"lab.{'p' * 60}", "whose name is longer than 63 letters"),
    ],
)
def test_a_wrong_history_is_reported(tmp_path: Path, old: str, new: str, problem: str) -> None:
    """The problem names the table and what the option expects."""
    path = tmp_path / "parcels.toml"
    path.write_text(DEFINITION.replace(old, new))
    with pytest.raises(DefinitionError, match=re.escape(problem)):
        read(path)


def test_replace_keeps_no_versions(site: Site) -> None:
    """A load of mode replace into a table with history is refused, with the mode that keeps them."""
    site.define(DEFINITION)
    (site.folder / "1.ndjson").write_text('{"id": 1}')
    ended = site.run("load", "parcels", "1.ndjson", "--mode", "replace")
    assert ended.returncode == 2
    assert "hint: load by --mode merge" in ended.stderr


def test_the_printed_statements_make_what_a_command_makes(site: Site) -> None:
    """`dataset ddl` prints the histories with their functions, so that a command has nothing left to make."""
    dataset = site.define(DEFINITION.replace("carrier = {", "carrier = { keep_first = true,"))
    site.ask("drop table lab.parcels, lab.items, lab.parcels_history, lab.items_history")
    site.ask(site.run("dataset", "ddl", "parcels").stdout)
    assert not any(site.run("dataset", "create", "parcels", "--json").lines[0]["made"].values())
    assert len(row_history.ddl(dataset)) > 6
    assert site.run("dataset", "check", "parcels").returncode == 0


def test_definitions_of_the_same_rows_have_the_same_hash(tmp_path: Path) -> None:
    """A history changes no rows: what was loaded without one counts as loaded with it."""
    path, hashes = tmp_path / "parcels.toml", set()
    for text in (DEFINITION, DEFINITION.replace("history = true", "")):
        path.write_text(text)
        hashes.add(read(path).hash)
    assert len(hashes) == 1
