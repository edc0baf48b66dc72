"""How fresh the tables of an export are: which loads their rows include."""

from datetime import datetime
from typing import Any

import psycopg

from etl import queries
from etl.exporting.subjects import Subject

_SQL = queries.load("exporting")


class Freshness:
    """How fresh the tables are in the snapshot of a transaction, as far as the user may know."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._knows_runs = self._is_readable("etl", "runs")
        is_known = self._is_readable("analytics", "freshness")
        rows = queries.rows(connection, _SQL["freshness"]) if is_known else []
        self._aggregates: dict[str, dict[str, Any]] = {f"analytics.{row.pop('aggregate')}": row for row in rows}

    def of(self, subject: Subject) -> dict[str, Any]:
        """Return what the entry of a table says."""
        if subject.name in self._aggregates:
            return self._aggregates[subject.name]
        if not subject.datasets:
            return {}
        run, facts_through = self.newest(list(subject.datasets))
        return {"run": run, "facts_through": facts_through}

    def _is_readable(self, schema: str, table: str) -> bool:
        row = self._connection.execute(_SQL["is_readable"], {"schema": schema, "table": table}).fetchone()
        return bool(row and row[0])

    def newest(self, datasets: list[str] | None = None) -> tuple[str | None, datetime | None]:
        """Return the finished run that ended last, of some datasets or of all, and its end."""
        if not self._knows_runs:
            return None, None
        row = self._connection.execute(_SQL["newest_run"], {"datasets": datasets}).fetchone()
        return row or (None, None)
