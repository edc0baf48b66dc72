"""What changed since the last export at a place: each table of facts is a consumer of changes, as an aggregate is.

Triggers note the months of changed rows; they are pending until an export took them, in the transaction that read the
rows. It commits when the manifest is in place: an export that is killed before leaves them pending. An aggregate has a
version instead. What is neither, such as a view, is written anew each time.
"""

import hashlib
from collections.abc import Sequence

import psycopg
import structlog
from psycopg import sql

from etl import queries
from etl.errors import UsageError
from etl.exporting.manifest import Manifest, Table
from etl.exporting.subjects import Subject
from etl.exporting.tables import without_month
from etl.precalculation import installation, triggers
from etl.precalculation.buckets import ALL, EVERYTHING, KINDS, BucketKind, BucketRange
from etl.precalculation.pending import gather, take_buckets
from etl.quick_dataclasses import dataclass

_SQL = queries.load("exporting")
_MONTH = KINDS["month"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Watch:
    """How the changes of a table are noted for an export."""

    consumer: str
    kind: BucketKind
    noted: str


class Changes:
    """The changes for the export at one place."""

    def __init__(self, connection: psycopg.Connection, place: str, before: Manifest | None) -> None:
        self._connection = connection
        self._place = place
        self._before = before
        self._watches: dict[str, _Watch] = {}
        self._is_continued = False

    def register(self, subjects: Sequence[Subject]) -> None:
        """Let the changes of the tables be noted from now on; those that were not noted before are due as a whole.

        Raises UsageError when the user may not: then the owner of the tables does it once.
        """
        prefix = _prefix(self._place)
        self._watches = {
            subject.name: self._watch(f"{prefix}{subject.name}", subject)
            for subject in subjects
            if subject.aggregate is None and self._is_table(subject)
        }
        try:
            self._register(prefix)
            lacking = set(self._watches).intersection(installation.unwatched(self._connection))
            if lacking:
                installation.watch_again(self._connection)
                lacking = set(self._watches).intersection(installation.unwatched(self._connection))
        except psycopg.errors.InsufficientPrivilege as error:
            raise UsageError(
                f"the user {self._connection.info.user} may not have the changes of these tables noted for exports:"
                f" {error.diag.message_primary}",
                hint="run this command once as the owner of the tables, who also runs etl db migrate",
            ) from error
        for name in lacking:
            log.warning("table_written_as_a_whole", table=name, reason="its changes are not noted")
            del self._watches[name]
        gather(self._connection)

    def begin(self) -> None:
        """See in the snapshot of the export whether the files at the place are those of the last one."""
        row = self._connection.execute(_SQL["last_export"], {"place": self._place}).fetchone()
        # Not so after an export that was killed between its manifest and its commit, or in a database of another time.
        self._is_continued = row is not None and self._before is not None and row[0] == self._before.export

    def take(self, subject: Subject, version: int | None) -> Sequence[BucketRange] | None:
        """Take the changes of a table; return the months that are to be written, or None: all of it."""
        watch = self._watches.get(subject.name)
        ranges = take_buckets(self._connection, watch.consumer, watch.kind) if watch else [EVERYTHING]
        before = self._before.table(subject.name) if self._before and self._is_continued else None
        if before is None or not _is_same(before, subject):
            return None
        if version is not None and version == before.version:
            return []
        return None if EVERYTHING in ranges else ranges

    def record(self, export: str) -> None:
        """Record in the transaction of the export that the changes are in it."""
        self._connection.execute(_SQL["record_export"], {"place": self._place, "export": export})

    def _is_table(self, subject: Subject) -> bool:
        row = self._connection.execute(_SQL["is_own_table"], {"table": subject.quoted}).fetchone()
        return bool(row and row[0]) and not subject.name.startswith("analytics.")

    def _watch(self, consumer: str, subject: Subject) -> _Watch:
        """Return how to note changes: as an aggregate has them noted already, if one does."""
        if subject.month_of is None:
            return _Watch(consumer=consumer, kind=ALL, noted="")
        forms = {"date": "{}", "timestamp": "{}::date"}
        form = forms.get(subject.month_of.kind, "({} at time zone 'UTC')::date")
        plain = form.format(subject.month_of.name)
        quoted = form.format(sql.Identifier(subject.month_of.name).as_string(None))
        row = self._connection.execute(_SQL["is_noted"], {"fact": subject.name, "noted": plain}).fetchone()
        return _Watch(consumer=consumer, kind=_MONTH, noted=plain if row and row[0] else quoted)

    def _register(self, prefix: str) -> None:
        found: dict[str, list[tuple[str, str | None]]] = {}
        for consumer, bucket, _, noted in self._connection.execute(_SQL["registered"], {"prefix": prefix}):
            found.setdefault(consumer, []).append((bucket, noted))
        wanted = {watch.consumer for watch in self._watches.values()}
        if gone := sorted(set(found) - wanted):
            self._connection.execute(_SQL["unregister"], {"consumers": gone})
        for fact, watch in self._watches.items():
            if found.get(watch.consumer) == [(watch.kind.name, watch.noted)]:
                continue
            with self._connection.transaction():
                self._connection.execute(_SQL["register"], {"consumer": watch.consumer, "bucket": watch.kind.name})
                self._connection.execute(
                    _SQL["watch"], {"consumer": watch.consumer, "fact": fact, "noted": watch.noted}
                )
                for unnoted in triggers.install(self._connection, [fact]):
                    installation.add_pending_all(self._connection, unnoted)


def forget(connection: psycopg.Connection, place: str) -> bool:
    """Let no more changes be noted for the export at a place; return whether there was one. Its files stay.

    Raises UsageError when the user may not.
    """
    try:
        with connection.transaction():
            registered = connection.execute(_SQL["registered"], {"prefix": _prefix(place)}).fetchall()
            connection.execute(_SQL["unregister"], {"consumers": sorted({row[0] for row in registered})})
            forgotten = connection.execute(_SQL["forget_export"], {"place": place}).fetchone()
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            f"the user {connection.info.user} may not forget an export: {error.diag.message_primary}",
            hint="run this command as the owner of the tables, who also runs etl db migrate",
        ) from error
    return bool(registered or forgotten)


def _prefix(place: str) -> str:
    return f"export:{hashlib.sha256(place.encode()).hexdigest()[:12]}:"


def _is_same(before: Table, subject: Subject) -> bool:
    """Return whether the files of a table can stay: it has the same columns, and is divided by the same one."""
    return before.month_of == (subject.month_of.name if subject.month_of else None) and [
        (column.name, column.type) for column in before.columns
    ] == [(column.name, column.type) for column in subject.columns]


def condition(subject: Subject, ranges: Sequence[BucketRange]) -> sql.Composable:
    """Return the condition of the rows in some months; rows without a month are always among them."""
    if subject.month_of is None:
        return sql.SQL("true")
    column = subject.month_of.identifier
    limit = _MONTH.instant if subject.month_of.kind == "timestamptz" else _MONTH.limit
    parts: list[sql.Composable] = [
        _SQL["within"].format(column=column, first=limit(each.first), until=limit(each.until)) for each in ranges
    ]
    return sql.SQL(" or ").join([*parts, without_month(subject.month_of)])


def is_within(month: str, ranges: Sequence[BucketRange]) -> bool:
    """Return whether a month is in one of the ranges."""
    place = _place(month)
    return any(_place(each.first) <= place < _place(each.until) for each in ranges)


def _place(date: str) -> tuple[int, int]:
    year, month = date.split("-")[:2]
    return -int(year) if date.endswith("BC") else int(year), int(month)
