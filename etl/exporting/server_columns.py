"""Columns as the catalogue of PostgreSQL has them."""

from typing import NamedTuple

from psycopg import sql

TIMES = frozenset({"date", "timestamp", "timestamptz"})
"""Types by which a table can be divided into months. Each has infinite values."""

ARRAYS = frozenset({"_text", "_varchar"})
"""Types of arrays of texts."""

NO_MONTH = "__HIVE_DEFAULT_PARTITION__"
"""The month of rows whose time is null or infinite, as programs that read such folders know it."""


class ServerColumn(NamedTuple):
    """A column as the catalogue of PostgreSQL has it: `kind` is the name of its type, `modifier` holds the digits."""

    name: str
    type: str
    kind: str
    modifier: int
    comment: str

    @property
    def identifier(self) -> sql.Identifier:
        """The name in a statement of an export."""
        return sql.Identifier("exported", self.name)
