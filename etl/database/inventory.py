"""The parts of some tables in a database: compared before and after a migration, they show what was made."""

from collections.abc import Sequence
from dataclasses import fields

import psycopg

from etl import queries
from etl.quick_dataclasses import dataclass

_SQL = queries.load("database")


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The tables, their columns and their triggers: by name, each with the oid of its table."""

    tables: frozenset[tuple[int, str]]
    columns: frozenset[tuple[int, str]]
    triggers: frozenset[tuple[int, str]]


@dataclass(frozen=True, kw_only=True)
class Made:
    """The names of tables that were made, and of columns and triggers that were added to older tables."""

    tables: tuple[str, ...]
    columns: tuple[str, ...]
    triggers: tuple[str, ...]

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))


def look(connection: psycopg.Connection, tables: Sequence[str]) -> Inventory:
    """Return the parts of the tables called `SCHEMA.NAME`; a table that the database does not have is left out.

    Asks the catalogue only: a schema may deny its use.
    """
    schemas, names = zip(*(table.split(".", 1) for table in tables), strict=True) if tables else ((), ())
    found: dict[str, set[tuple[int, str]]] = {"table": set(), "column": set(), "trigger": set()}
    for kind, table, name in connection.execute(_SQL["inventory"], {"schemas": list(schemas), "names": list(names)}):
        found[kind].add((table, name))
    return Inventory(
        tables=frozenset(found["table"]), columns=frozenset(found["column"]), triggers=frozenset(found["trigger"])
    )


def made_since(before: Inventory, now: Inventory) -> Made:
    """Return the parts that `now` has and `before` has not. A new table comes without its columns and triggers."""
    known = {table for table, _ in before.tables}
    return Made(
        tables=tuple(sorted(name for table, name in now.tables if table not in known)),
        columns=tuple(sorted(name for table, name in now.columns - before.columns if table in known)),
        triggers=tuple(sorted(name for table, name in now.triggers - before.triggers if table in known)),
    )
