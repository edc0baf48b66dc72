"""The databases of the tests of one process, one after the other, each as fresh as its template."""

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import sql

from tests.support.faults import Connection
from tests.support.waiting import until


class FreshDatabases:
    """Gives databases of one name, each a copy of the template.

    Copying and deleting one takes some 30 ms of processor time, and a quarter of the tests write nothing: they test a
    refusal, or only read. The next test then uses the same database. Every write takes a number of a transaction, also
    one that is rolled back, so a database is untouched while the server gives out none.
    """

    def __init__(self, maintenance: Connection, name: str, template: str) -> None:
        self._maintenance = maintenance
        self.name = name
        self._template = template
        self._untouched_at: int | None = None

    @contextmanager
    def one(self) -> Iterator[str]:
        """Give the name of a database to a test, and delete it afterwards unless it is untouched."""
        if self._untouched_at is None or self._untouched_at != self._next_transaction():
            self._create()
        try:
            yield self.name
        finally:
            if self._untouched_at != self._next_transaction() or self._stays_in_use():
                self.delete()

    def delete(self) -> None:
        """Delete the database, if there is one, and end the connections to it."""
        self._untouched_at = None
        drop = sql.SQL("drop database if exists {} with (force)")
        self._maintenance.execute(drop.format(sql.Identifier(self.name)))

    def _create(self) -> None:
        self.delete()  # A test that was interrupted may have left it.
        # A copy of the files, and not of each page through the log of the server, which costs twice as much.
        create = sql.SQL("create database {} template {} strategy file_copy")
        self._maintenance.execute(create.format(sql.Identifier(self.name), sql.Identifier(self._template)))
        self._untouched_at = self._next_transaction()

    def _next_transaction(self) -> int:
        cursor = self._maintenance.execute("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
        [(number,)] = cursor.fetchall()
        return int(number)

    def _stays_in_use(self) -> bool:
        """Return whether somebody is connected still; a backend ends a moment after its connection."""
        query = "select 1 from pg_stat_activity where datname = %s and backend_type = 'client backend' limit 1"

        def is_left() -> bool:
            return self._maintenance.execute(query, [self.name]).fetchone() is None

        try:
            until(is_left, "the end of the connections to the database", 0.1, pause=0.002)
        except AssertionError:
            return True
        return False
