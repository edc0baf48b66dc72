"""The output of `etl failed show`: refused records, the files to correct, and the commands that come next."""

import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import click
import psycopg
from rich.cells import cell_len, chop_cells

from etl.cli import next_commands
from etl.errors import UsageError
from etl.ingestion.failed_store.locating import is_plain, length_in
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import failures, history
from etl.ingestion.ledger.failures import StoredFailure
from etl.ingestion.ledger.history import FaultCount
from etl.ingestion.values import StoredRecord
from etl.quick_dataclasses import dataclass
from etl.standard_streams import one_line, printable


class _Most(NamedTuple):
    """How many files, faults, and rows of a line of a record a terminal gets at most, unless a limit is given."""

    files: int
    faults: int
    rows: int


_MOST = (_Most(3, 4, 4), _Most(3, 2, 3), _Most(2, 1, 2), _Most(1, 1, 1))
"""The first one with which the screen has room for the first record."""


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The files of the failed store that a command names: by ids, or the pending ones of runs, a dataset, or all."""

    ids: tuple[str, ...]
    runs: tuple[str, ...]
    dataset: str | None
    is_all: bool

    @property
    def of(self) -> str:
        """How a sentence names what it is that does not wait."""
        name = ", ".join(self.runs) or self.dataset
        return f" of {name}" if name else ""

    def find(self, connection: psycopg.Connection) -> list[StoredFailure]:
        """Return the files, those of each run in the order of its records.

        Raises UsageError for an unknown id, and when there is no newest run.
        """
        if self.ids:
            return [failures.named(connection, each) for each in dict.fromkeys(self.ids)]
        runs = [history.name_of(connection, run, self.dataset) for run in self.runs]
        found = failures.find(connection, runs=runs, dataset=self.dataset, state="pending")
        begun = {run: place for place, run in enumerate(dict.fromkeys(each.run for each in found))}
        return sorted(found, key=lambda each: (begun[each.run], each.batch))

    def words(self, chosen: Sequence[StoredFailure]) -> list[str]:
        """Return the words by which another command names the same files; a run by its own name, not as the newest."""
        if self.ids:
            return [each.id for each in chosen]
        if self.runs:
            return [word for run in dict.fromkeys(each.run for each in chosen) for word in ("--run", run)]
        return ["--dataset", self.dataset] if self.dataset else ["--all"]


def document(store: FailedStore, failure: StoredFailure) -> dict[str, Any]:
    """Return a file of the failed store as a JSON object: its description, and its records as they are now."""
    about = store.document(*failure.key)
    lines = store.content(*failure.key).splitlines()
    about |= {"state": failure.state, "attempts": failure.attempts, "note": failure.note}
    about |= {"file": str(store.path(*failure.key))}
    return about | {"texts": [line.decode("utf-8", errors="replace") for line in lines]}


class Shown:
    """Refused records as text. On a terminal, without a limit, they take one screen, with the first record at least."""

    def __init__(
        self,
        store: FailedStore,
        chosen: Sequence[StoredFailure],
        faults: Sequence[FaultCount],
        wanted: Selected,
        limit: int | None,
    ) -> None:
        self._store = store
        self._chosen = chosen
        self._faults = faults
        self._wanted = wanted
        self._most = _MOST[0]
        self._limit = limit
        self._pending = [each for each in chosen if each.state == "pending"]
        self.errors: list[UsageError] = []
        """The errors of files that cannot be shown; the other files are shown all the same."""
        size = shutil.get_terminal_size()
        self._width = size.columns
        self._height = size.lines - 1 if sys.stdout.isatty() and limit is None else None  # The prompt takes one.

    def print(self) -> None:
        """Print the records, or as many as the limit and the terminal allow, and what to do."""
        count = sum(each.count_records for each in self._chosen)
        blocks = self._blocks()
        first = list(islice(blocks, 1))
        shown = 0
        left = self._room(first, count)
        after = self._after()
        for block in chain(first, blocks):
            lines = self._cut(block) if self._height is not None else block
            needed = self._lines(lines)
            if shown and ((left is not None and needed > left) or shown == self._limit):
                break
            left = None if left is None else left - needed
            for line in lines:
                click.echo(line)
            shown += 1
        if not shown and self.errors:
            return
        if shown < count:
            after = [*self._counted(count, count - shown), *after]
        for line in after:
            click.echo(line)

    def _room(self, first: list[list[str]], count: int) -> int | None:
        """Return the rows for records; choose how much else there is so that the first record and the commands fit."""
        if self._height is None:
            return None
        left = 0
        for self._most in _MOST:
            left = self._height - self._lines(self._after()) - self._lines(self._counted(count, count))
            if left >= sum(self._lines(self._cut(block)) for block in first):
                break
        return left

    def _blocks(self) -> Iterator[list[str]]:
        """Yield the lines of each record; those of the first one of a file begin with the file."""
        for number, failure in enumerate(self._chosen):
            try:
                details = self._store.details(*failure.key)
                lines = self._store.content(*failure.key).splitlines()
            except UsageError as error:
                self.errors.append(error)
                continue
            title = (
                f"{failure.id}: {failure.count_records:,} {failure.kind} records of {failure.source}, {failure.state}"
            )
            head = [*([""] if number else []), one_line(title)]
            for record, line in zip(details.records, lines, strict=False):
                yield [*head, *_described(failure.source, record, line, is_keyed=details.is_keyed)]
                head = []
            if head:
                yield head

    def _counted(self, count: int, rest: int) -> list[str]:
        """Return how many records are not shown, and which faults all of them have."""
        lines = ["", f"{rest:,} more of {count:,} records; all of them by fault:"]
        most = len(self._faults) if self._height is None else self._most.faults
        for fault in self._faults[:most]:
            column = ".".join(filter(None, (fault.table, fault.column)))
            text = f"  {fault.count_records:,} x {fault.sqlstate} {column + ': ' if column else ''}{fault.reason}"
            lines.append(one_line(text))
        if len(self._faults) > most:
            lines.append(f"  and {len(self._faults) - most:,} other faults")
        return lines

    def _after(self) -> list[str]:
        """Return the files to correct, and the commands that come next, of the files that wait."""
        if not self._pending:
            return []
        files = [next_commands.path(self._store.path(*each.key)) for each in self._pending]
        most = len(files) if self._height is None else self._most.files
        what = "this file" if len(files) == 1 else f"these {len(files):,} files"
        is_data = any(each.kind == "rejected" for each in self._pending)
        task = "correct the records in" if is_data else "their data may be fine; look at"
        lines = ["", f"{task} {what}, one on each line:", *(f"  {file}" for file in files[:most])]
        words = self._wanted.words(self._pending)
        if len(files) > most:
            folders = dict.fromkeys(next_commands.path(self._store.path(*each.key).parent) for each in self._pending)
            lines.append(f"  and {len(files) - most:,} more in {' '.join(list(folders)[: self._most.files])}")
        lines += ["load them:", f"  {next_commands.command('failed', 'replay', *words)}"]
        lines += ["or give them up:", f"  {next_commands.command('failed', 'discard', *words, '--reason', 'WHY')}"]
        if remark := next_commands.note_on_password():
            lines.append(remark)
        return [one_line(line) for line in lines]

    def _cut(self, block: list[str]) -> list[str]:
        """Return the lines of a record without most of a long one."""
        width, most = self._width, self._most.rows
        return [
            line if self._rows(line) <= most else f"{''.join(chop_cells(line, width)[:most])[:-1]}…" for line in block
        ]

    def _lines(self, lines: Sequence[str]) -> int:
        return sum(map(self._rows, lines))

    def _rows(self, line: str) -> int:
        """Return how many rows of the terminal a line takes."""
        return max(1, -(-cell_len(printable(line)) // self._width))


def _described(source: str, record: StoredRecord, line: bytes, *, is_keyed: bool) -> Iterator[str]:
    """Yield the place, the fault and the text of a record, and a command that prints it from its source."""
    column = ".".join(filter(None, (record.table, record.column)))
    yield ""
    yield one_line(f"record {record.record:,} at byte {record.offset:,}, key {record.key or 'unknown'}")
    yield one_line(f"  {record.sqlstate} {column + ': ' if column else ''}{record.reason}")
    yield f"  {line.decode('utf-8', errors='replace')}"
    if is_plain(source):
        name = shlex.quote(f"./{source}" if source.startswith("-") else source)
        length = length_in(source, record.offset, line, is_keyed=is_keyed)
        yield one_line(f"  tail -c +{record.offset + 1} {name} | head -c {length}")
