"""`etl dataset show NAME --as dbt`: the sources that dbt reads, tests and finds fresh."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from etl import datasets
from etl.datasets import columns_in_database, dbt
from tests.support.definitions import Define
from tests.support.environments import made
from tests.support.faults import Connection
from tests.support.site import Site

# Names, comments and values that YAML, a template or a statement could take for their own.
HOSTILE = """
name = "crates"
mode = "merge"
key = ["Crate No", "order"]
[[table]]
name = "Yard.Crates"
comment = "One {{ row }}: a \\"crate\\" # {% if %}\\t\\u0085\\u2028\\U0001F4E6"
[table.columns]
"Crate No" = { type = "text", required = true, comment = "no: 'yes'" }
order = { type = "integer", required = true }
state = { type = "text", one_of = ["new", "on: hold", "null"] }
quoted = { type = "text", one_of = ["it's", "{{ x }}"] }
[[table]]
name = "logistics.crate_parts"
each = "parts"
[table.columns]
"Crate No" = { path = "^.no", type = "text" }
order = { path = "^.order", type = "integer" }
at = "time"
""".replace("Crate No", "CrateNo")


def columns_of(connection: Connection, table: str) -> list[tuple[str, str, str | None]]:
    """Return the columns of a table with their types and comments."""
    return connection.execute(
        "select attname::text, format_type(atttypid, atttypmod), col_description(attrelid, attnum) from pg_attribute"
        " where attrelid = %s::regclass and attnum > 0 and not attisdropped",
        [table],
    ).fetchall()


def test_the_sources_are_what_the_tables_are(connection: Connection, define: Define) -> None:
    """Each table of the definitions has its columns as they are in the database, with type and comment."""
    shipped = [datasets.find(name, Path("none")) for name in datasets.default_names(Path("none"))]
    for dataset in (define(HOSTILE, "crates"), *shipped):
        for statement in datasets.ddl(dataset):
            connection.execute(statement)
        read = yaml.safe_load(dbt.sources(dataset))
        found = {
            f"{source['schema']}.{table['name']}": table for source in read["sources"] for table in source["tables"]
        }
        assert list(found) == [table.name for table in dataset.tables]
        for table in dataset.tables:
            columns = {
                each["name"]: (each["data_type"], each.get("description")) for each in found[table.name]["columns"]
            }
            assert columns == columns_in_database(dataset, table)
            kept = {name: comment for name, _, comment in columns_of(connection, table.quoted)}
            assert kept == {name: text for name, (_, text) in columns_in_database(dataset, table).items()}


@pytest.mark.slow
def test_dbt_reads_and_tests_the_sources(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A real dbt parses the sources, finds them fresh or late by the ledger, and finds rows that break a test."""
    # dbt-core 1.12 needs a package that is no part of the registry.
    programs = made(tmp_path_factory, "dbt", "dbt-core>=1.10,<1.12", "dbt-postgres>=1.9,<1.11")
    site.define(HOSTILE)
    (site.folder / "crates.json").write_text(
        '[{"CrateNo": "A", "order": 1, "state": "new", "parts": [{"at": "08:15"}]}, {"CrateNo": "A", "order": 2}]'
    )
    (site.folder / "shipments.json").write_text(
        json.dumps([{"shipment_id": "S1", "created_at": "2026-11-20T08:00:00Z", "items": [{"sku": "X"}]}])
    )
    site.load("crates", "crates.json")
    site.load("shipments", "shipments.json")
    project = site.folder / "project"
    (project / "models").mkdir(parents=True)
    for name in ("crates", "shipments"):
        (project / "models" / f"{name}.yml").write_text(site.run("dataset", "show", name, "--as", "dbt").stdout)
    (project / "dbt_project.yml").write_text(
        "name: yard\nversion: '1.0'\nprofile: yard\nflags: {send_anonymous_usage_stats: false}"
    )
    info = site.connection.info
    target = {"type": "postgres", "host": info.host, "port": info.port, "user": info.user, "password": "",
              "dbname": info.dbname, "schema": "public", "threads": 1}  # fmt: skip
    (project / "profiles.yml").write_text(json.dumps({"yard": {"target": "t", "outputs": {"t": target}}}))

    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [programs / "dbt", "--no-use-colors", "--no-version-check", *words],
            cwd=project,
            env={"PATH": "/usr/bin:/bin", "HOME": str(site.folder), "DO_NOT_TRACK": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return done.returncode, done.stdout + done.stderr

    code, output = run("parse", "--warn-error")
    assert code == 0, output
    code, output = run("source", "freshness")
    assert (code, output.count("[PASS in")) == (0, 4), output
    code, output = run("test")
    assert code == 0, output
    assert "PASS=8 WARN=0 ERROR=0" in output
    (project / "models" / "crates.sql").write_text("select * from {{ source('crates', 'Crates') }}")
    manifest: dict[str, Any] = json.loads((project / "target" / "manifest.json").read_text())
    described = manifest["sources"]["source.yard.crates.Crates"]["description"]
    assert described == site.define(HOSTILE).tables[0].comment

    site.connection.execute("update etl.runs set finished_at = now() - interval '30 hours' where dataset = 'shipments'")
    site.connection.execute("update etl.runs set finished_at = now() - interval '60 hours' where dataset = 'crates'")
    code, output = run("source", "freshness")
    assert (code, output.count("[WARN in"), output.count("[ERROR STALE in")) == (1, 2, 2), output
    site.connection.execute("delete from logistics.shipments")
    site.connection.execute('alter table "Yard"."Crates" drop constraint "Crates_pkey"')
    site.connection.execute('insert into "Yard"."Crates" table "Yard"."Crates"')
    code, output = run("test")
    assert (code, "ERROR=2" in output) == (1, True), output
