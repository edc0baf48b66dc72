"""Obstacles to the load of a table, as the catalogue of the database shows them before the load, with the remedy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg

from etl import queries
from etl.database.tables import identity_remedy, see_all_rows
from etl.datasets import Dataset, Table
from etl.errors import UsageError
from etl.quick_dataclasses import dataclass
from etl.settings import Mode

_SQL = queries.load("obstacles")

# Relations that COPY fills (PostgreSQL manual, pg_class.relkind): tables, partitioned tables, foreign tables.
_TABLES = {"r", "p", "f"}
_KINDS = {"v": "a view", "m": "a materialized view", "S": "a sequence", "c": "a composite type"}


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """Why a table cannot be loaded, and what a person does; `sqlstates` are the server's codes for it.

    `is_certain`: every load of this kind is refused; else only some statements or rows are.
    """

    table: str
    found: str
    remedy: str
    sqlstates: frozenset[str]
    is_certain: bool = True


def require_loadable(connection: psycopg.Connection, dataset: Dataset, mode: Mode) -> None:
    """Raise UsageError when the server would refuse every load of the dataset in this mode."""
    for obstacle in of_dataset(connection, dataset, mode):
        if obstacle.is_certain:
            raise UsageError(f"{obstacle.table} cannot be loaded: {obstacle.found}", hint=obstacle.remedy)


def of_dataset(connection: psycopg.Connection, dataset: Dataset, mode: Mode) -> Iterator[Obstacle]:
    """Yield the obstacles to a load of the tables of a dataset in this mode."""
    is_plain = mode == "append" and dataset.on_duplicate != "newest"
    for table in dataset.tables:
        # Each insert of this tool gives identity columns their values; an update of a record cannot change them.
        is_updated = dataset.key and not is_plain and not table.each
        updated = {*(column.name for column in table.columns), *table.lineage} - set(dataset.key)
        yield from _of_table(connection, table.quoted, updated if is_updated else set())
    if not is_plain:
        yield from unidentified(connection, [table.quoted for table in _rewritten(dataset, mode)])


def _rewritten(dataset: Dataset, mode: Mode) -> Sequence[Table]:
    """Return the tables whose rows a mode updates or deletes."""
    return dataset.tables if dataset.key or mode == "replace" else ()


def unidentified(
    connection: psycopg.Connection, tables: Sequence[str], schemas: Sequence[str] = ()
) -> Iterator[Obstacle]:
    """Yield the tables, also those of some schemas, that are published without a replica identity."""
    if not queries.one(connection, _SQL["publishes_changes"])["publishes"]:
        return
    for name, publications in connection.execute(
        _SQL["unidentified"], {"tables": list(tables), "schemas": list(schemas)}
    ):
        which = f"the publication {', '.join(publications)} publishes"
        yield Obstacle(
            table=name,
            found=f"{which} its updates and deletes, and it has no replica identity",
            remedy=f"alter table {name} replica identity full",
            sqlstates=frozenset({"55000"}),
        )


def _filtered(connection: psycopg.Connection, tables: Sequence[str]) -> Iterator[Obstacle]:
    """Yield the tables that are published by a filter or a list of columns, which the server compares with the key."""
    for name, publications in connection.execute(_SQL["filtered"], {"tables": list(tables)}):
        which = ", ".join(publications)
        yield Obstacle(
            table=name,
            found=f"the publication {which} publishes it by columns that its replica identity does not fit",
            remedy=f"alter table {name} replica identity full for a filter of rows,"
            f" or let {which} publish the columns of the key",
            sqlstates=frozenset({"42P10"}),
            is_certain=False,
        )


def find_cause(connection: psycopg.Connection, tables: Sequence[str], sqlstate: str) -> Obstacle | None:
    """Return the obstacle that explains this refusal of a statement that writes to these tables, or None."""
    try:
        found = [
            *(obstacle for table in tables for obstacle in _of_table(connection, table, None)),
            *unidentified(connection, tables, ["etl", "etl_staging"]),
            *_filtered(connection, tables),
        ]
    except psycopg.Error:  # The refusal itself is reported.
        return None
    return next((obstacle for obstacle in found if sqlstate in obstacle.sqlstates), None)


def _of_table(connection: psycopg.Connection, table: str, updated: set[str] | None) -> Iterator[Obstacle]:
    """Yield the obstacles to writing a table; `updated` are the columns that get new values, None: any."""
    for facts in queries.rows(connection, _SQL["facts_of_table"], {"table": table}):
        yield from _kind(facts)
        yield from _rights(facts)
        always = [name for name in facts["identity_always"] if updated is None or name in updated]
        if always:
            yield Obstacle(
                table=facts["name"],
                found=f"its column {', '.join(always)} is generated always as identity, and no update can change it",
                remedy=identity_remedy(facts["name"], always).removesuffix(";"),
                sqlstates=frozenset({"428C9"}),
            )


def _kind(facts: Mapping[str, Any]) -> Iterator[Obstacle]:
    if facts["kind"] in _TABLES or (facts["kind"] == "v" and facts["takes_rows"]):
        return
    yield Obstacle(
        table=facts["name"],
        found=f"it is {_KINDS.get(facts['kind'], 'no table')}",
        remedy="name a table in the definition, or give the view an `instead of insert` trigger for each row",
        sqlstates=frozenset({"42809", "0A000", "55000"}),
    )


def _rights(facts: Mapping[str, Any]) -> Iterator[Obstacle]:
    if facts["missing_rights"]:
        yield Obstacle(
            table=facts["name"],
            found=f"{facts['user_name']} may not {', '.join(facts['missing_rights'])}",
            remedy=f"grant etl_loader to {facts['user_name']}",
            sqlstates=frozenset({"42501"}),
        )
    if facts["has_policies"]:
        yield Obstacle(
            table=facts["name"],
            found=f"row-level security hides rows of it from the user {facts['user_name']}",
            remedy=see_all_rows(facts["user_name"]),
            sqlstates=frozenset({"42501", "0A000"}),
        )
