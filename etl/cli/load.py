"""`etl load`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Self

import click

from etl.cli import completion, next_commands, print_error
from etl.cli.groups import Command
from etl.cli.options import (
    Common,
    LedgerCode,
    explaining_swapped,
    given_by,
    json_option_of_load,
    metrics_option,
    option,
    print_json,
    print_note,
    print_text,
    settings_options,
)
from etl.cli.progress import Display, display
from etl.cli.stopping import ending_after, stopped_by_signals
from etl.errors import DONE, EtlError, ExitCode, UsageError
from etl.ingestion.pipeline import outcome
from etl.ingestion.pipeline.command import CommandResult, load_all
from etl.ingestion.pipeline.job import Load
from etl.ingestion.pipeline.targets import Target, targets_of
from etl.ingestion.sources import encodings, naming
from etl.ingestion.summary import Balance, Summary
from etl.ingestion.values import Source
from etl.metrics import Report
from etl.settings import LoadSettings

_COUNTS = ("rejected", "failed", "skipped", "withheld")

_MOST_MEMBERS = 10

_EXAMPLES = """
etl load shipments exports/2026-11-21.json.gz
etl load shipments exports/                      # all files of a folder
etl load shipments 'exports/2026-11-*.json'      # all files of a pattern
curl -s https://example.com/feed | etl load shipments -
etl load shipments feed.json --dry-run           # check only
etl load stock stock.json --mode replace         # the file holds all rows
etl load deliveries,vehicle_logs day.json        # two datasets of one document
"""

_SECTIONS = {
    "What is loaded": (
        "mode",
        "format",
        "encoding",
        "records",
        "limit",
        "force",
        "trust_mtime",
        "atomic",
        "dry_run",
        "allow_empty",
    ),
    "Records that do not fit": (
        *("max_rejected", "max_deleted", "on_nul", "on_duplicate", "on_unknown", "max_record_bytes", "failed_dir"),
    ),
    "Speed": ("follow", "linger", "workers", "executor", "batch_rows", "decoder", "no_precalculate"),
    "When the database is away": ("retry_for", "retry_attempts", "retry_base_seconds", "retry_cap_seconds", "timeout"),
    "Output": ("as_json", "metrics_file"),
}

_MOST_NAMES = 5

_MOST_LINES = 20
"""Sources of a command that have a line each on a terminal: of more, those with a problem, and so many of these."""


@click.command("load", cls=Command, examples=_EXAMPLES, sections=_SECTIONS)
@click.argument("dataset", metavar="DATASET[,DATASET...]", shell_complete=completion.several_datasets)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@settings_options(LoadSettings)
@metrics_option("load")
@json_option_of_load
@option(
    "--timeout",
    type=click.FloatRange(0.1),
    metavar="SECONDS",
    help="End the load after this time as SIGTERM does, with exit code 143; the same command loads the rest.",
)
@click.pass_obj
def command(
    common: Common,
    /,
    dataset: str,
    sources: tuple[str, ...],
    as_json: bool,
    timeout: float | None,
    report: Report,
    **options: Any,
) -> int:
    """Load sources into a dataset: files, globs, folders, URLs, or - for standard input.

    Several datasets, separated by commas, take their records from the same document in one pass.

    Run the same command again after any interruption: it loads the rest.
    """
    settings = LoadSettings.read(given_by(LoadSettings, options))
    if settings.dry_run:
        report.withdraw()
    with explaining_swapped(["load"], dataset, sources, common.config_dir):
        targets = targets_of(dataset, settings, common.config_dir)
    if settings.encoding != "auto":
        encodings.require_known(settings.encoding)
    named = [each for argument in sources for each in naming.named(argument, settings.encoding)]
    result = CommandResult()
    shown = display(named, is_json=common.is_quiet or common.logs.format == "json")
    with Ends(as_json=as_json, sources=len(named)) as ends:
        try:
            with _begun(common, settings, targets, shown, timeout) as load:
                load_all(load, named, common.config_dir, result, ends.tell, partial(ends.tell_later, report))
                if not result.is_stopped:
                    report.look_at(load.database)
        except UsageError:
            raise
        except EtlError as error:
            ends.tell_not_begun(named[0], targets, common.name, error)
            result.codes.add(error.exit_code)
        report.count_sources(result.summaries)
        ends.sum_up(result, len(named), len(targets))
    return LedgerCode(result.exit_code)


@contextmanager
def _begun(
    common: Common, settings: LoadSettings, targets: Sequence[Target], shown: Display, timeout: float | None
) -> Iterator[Load]:
    """Yield the load with its database, which a signal or the end of the time stops."""
    patience = common.patience(settings.retries, settings.retry_for)
    with ending_after(timeout), common.database(patience, connects=True) as database, stopped_by_signals() as stop:
        logs = replace(common.logs, below=shown.height)
        yield Load(database=database, settings=settings, targets=targets, stop=stop, logs=logs, watch=shown)


class Ends:
    """Tells how sources ended. Errors are the last thing that a command tells, those of several sources beside each."""

    def __init__(self, *, as_json: bool, sources: int) -> None:
        self.as_json = as_json
        self._has_one_source = sources == 1
        self._has_many_sources = sources > _MOST_LINES
        self._problems = 0
        self._later: list[tuple[EtlError, dict[str, str | None]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for error, about in self._later:
            print_error(error, **about)

    def tell(self, summary: Summary, error: EtlError | None) -> None:
        """Print the summary of a source, and the error that ended it.

        Without --json, a command with several sources prints no line for each source that is loaded already, and one
        with many prints the first sources with a problem only.
        """
        is_fine = summary.exit_code == ExitCode.SUCCESS
        is_known = summary.status == "already_loaded" and is_fine
        if self._has_many_sources and not self.as_json:
            self._problems += not is_fine
            if is_fine or self._problems > _MOST_LINES:
                return
        if self.as_json or self._has_one_source or not is_known:
            _print_summary(summary, as_json=self.as_json)
        about = {"run": summary.run, "dataset": summary.dataset, "source": summary.source}
        if error and self._has_one_source:
            self._later.append((error, about))
        elif error:
            print_error(error, **about)

    def tell_not_begun(self, source: Source, targets: Sequence[Target], database: str, error: EtlError) -> None:
        """Print that no source could begin, for each target; the error comes with the first."""
        for number, target in enumerate(targets):
            self.tell(outcome.not_begun(source, target.dataset, database, error), None if number else error)

    def tell_later(self, report: Report, error: EtlError) -> None:
        """Keep an error that ended no source for the end."""
        report.note_error(error)
        self._later.append((error, {}))

    def sum_up(self, result: CommandResult, sources: int, datasets: int) -> None:
        """Print the sum of all sources, the refreshed aggregates, and where to look next."""
        if self._problems > _MOST_LINES:
            more = self._problems - _MOST_LINES
            print_text(f"{more:,} more sources with a problem are not listed: --json prints a line for each source")
        _print_total(result, sources, datasets, as_json=self.as_json)
        _note_ends(result)


def _note_ends(result: CommandResult) -> None:
    """Name the sources that errors ended, if there are several: their errors may be far above."""
    ended = [each for each in result.summaries if each.error is not None]
    if len({each.source for each in result.summaries}) < 2 or not ended:
        return
    names = {each.source: each.exit_code for each in ended}
    listed = [f"{name} (exit code {code})" for name, code in list(names.items())[:_MOST_NAMES]]
    listed += [f"{len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
    print_note(f"ended with an error, see above: {', '.join(listed)}")


def _print_summary(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        print_json([_with_options(summary).document()])
    else:
        print_text(sentence(summary))
        for reason in summary.reasons:
            column = ".".join(filter(None, (reason.table, reason.column)))
            print_text(
                f"  {reason.count:,} x {reason.sqlstate} {column + ': ' if column else ''}{reason.reason}"
                f" (first: record {reason.first_record:,} at byte {reason.first_offset:,})"
            )


def _print_total(result: CommandResult, sources: int, datasets: int, *, as_json: bool) -> None:
    """Print the sum of all sources, and the refreshed aggregates."""
    precalculated = result.precalculated
    if as_json:
        total = {
            "kind": "total",
            "exit_code": result.exit_code,
            "sources": sources,
            "precalculated": [vars(refreshed) for refreshed in precalculated],
        }
        print_json([total])
        return
    if len(result.summaries) > 1:
        print_text(total_of(result.summaries, datasets) + _next_of(result.summaries))
    if precalculated:
        seconds = sum(refreshed.seconds for refreshed in precalculated)
        names = [refreshed.aggregate for refreshed in precalculated]
        refreshed_names = ", ".join(names) if len(names) < 4 else f"{len(names)} aggregates"
        print_text(f"precalculated {refreshed_names} in {seconds:.1f} s")
    has_commands = any(summary.records.pending for summary in result.summaries)
    if has_commands and (remark := next_commands.note_on_password()):
        print_text(remark)


def _next_of(summaries: Sequence[Summary]) -> str:
    """Return the command that shows the refused records of several runs; nothing for one, whose line has it."""
    waiting = [summary for summary in summaries if summary.records.pending and summary.run]
    runs = list(dict.fromkeys(str(summary.run) for summary in waiting))
    names = {summary.dataset for summary in waiting}
    if len(runs) < 2:
        return ""
    chosen = [word for run in runs for word in ("--run", run)]
    if len(runs) > _MOST_NAMES:
        chosen = ["--dataset", *names] if len(names) == 1 else ["--all"]
    return f"; all that wait: {next_commands.command('failed', 'show', *chosen)}"


def _with_options(summary: Summary) -> Summary:
    """Return a summary whose commands have the options of this one."""
    if (end := summary.error) is None:
        return summary
    hint, following = (text and next_commands.completed(text) for text in (end.hint, end.next))
    return replace(summary, error=replace(end, hint=hint, next=following))


def sentence(summary: Summary) -> str:
    """Return the result of a source in one line; it ends with the next command if records are left."""
    status = f"dry run: {summary.status}" if summary.dry_run else summary.status
    line = f"{status} {summary.dataset} from {summary.source}: {_counts([summary.records])}"
    line += f" in {summary.seconds:.1f} s"
    if summary.status != "already_loaded":
        line += _rate(summary.records.loaded, summary.bytes_read, summary.seconds)
    if len(summary.rows) > 1 and any(summary.rows.values()):
        line += f"; rows: {', '.join(f'{table} {count:,}' for table, count in summary.rows.items())}"
    line += _deletions(summary)
    if summary.doubled:
        line += f"; {summary.doubled:,} of these records were loaded before, and --force added their rows again"
    if summary.policies.duplicates:
        read = summary.records.read
        line += f"; {summary.policies.duplicates:,} of {read:,} records had a key that came again"
    members, others = summary.policies.frequent_unknown(_MOST_MEMBERS)
    if members:
        names = ", ".join(f"{name} {count:,}" for name, count in members.items())
        line += f"; members that the definition does not know: {names}" + (f", others {others:,}" if others else "")
    if coerced := summary.policies.coerced:
        columns = ", ".join(f"{name} {count:,}" for name, count in coerced.items())
        line += f"; texts stored otherwise than they are written: {columns}"
    if summary.narrowed:
        columns = ", ".join(f"{name} ({effect})" for name, effect in summary.narrowed.items())
        line += f"; columns that may change values: {columns}"
    if summary.dry_run:
        keys = "keys of other sources" if summary.policies.duplicates else "keys across batches"
        return f"{line}; nothing was loaded; {keys}, foreign keys and triggers were not checked"
    if summary.status == "incomplete" and summary.exit_code in DONE:
        line += "; stopped by --limit: the same command without it loads the rest"
    if summary.records.pending:
        line += f"; {summary.records.pending:,} wait in the failed store: {_show(summary)}"
    elif summary.run and summary.exit_code not in DONE and summary.status in {"incomplete", "aborted"}:
        line += f"; next: {next_commands.command('runs', 'show', summary.run)}"
    return line


def _show(summary: Summary) -> str:
    return next_commands.command("failed", "show", "--run", str(summary.run))


def _deletions(summary: Summary) -> str:
    """Return the rows that a replace deleted and kept, as a part of the line."""
    deleted, kept = sum(summary.rows_deleted.values()), sum(summary.rows_kept.values())
    text = ""
    if deleted:
        tables = ", ".join(f"{table} {count:,}" for table, count in summary.rows_deleted.items() if count)
        text += f"; rows deleted: {tables if len(summary.rows) > 1 else f'{deleted:,}'}"
    if kept:
        text += f"; rows kept that may belong to rejected records: {kept:,}"
    return text


def total_of(summaries: Sequence[Summary], datasets: int = 1) -> str:
    """Return the result of several sources in one line; each source has one summary for each dataset."""
    statuses = Counter(summary.status for summary in summaries)
    # A source is read once for all datasets.
    sources = [summaries[first : first + datasets] for first in range(0, len(summaries), datasets)]
    seconds = sum(max(summary.seconds for summary in each) for each in sources)
    bytes_read = sum(max(summary.bytes_read for summary in each) for each in sources)
    units = f"{len(sources)} sources" if len(sources) > 1 else f"{datasets} datasets"
    line = f"{units}, {', '.join(f'{count} {status}' for status, count in statuses.items())}: "
    line += f"{_counts([summary.records for summary in summaries])} in {seconds:.1f} s"
    loaded = sum(summary.records.loaded for summary in summaries)
    return line + _rate(loaded, bytes_read, seconds)


def _counts(balances: Sequence[Balance]) -> str:
    counts = {name: sum(getattr(each, name) or 0 for each in balances) for name in ("read", "loaded", *_COUNTS)}
    unchanged = sum(each.unchanged for each in balances)
    parts = {"loaded": f" ({unchanged:,} of them unchanged)"} if unchanged else {}
    shown = {name: count for name, count in counts.items() if count or name not in _COUNTS}
    return ", ".join(f"{count:,} {name}{parts.get(name, '')}" for name, count in shown.items())


def _rate(loaded: int, bytes_read: int, seconds: float) -> str:
    if not loaded or not seconds:
        return ""
    volume = f"{bytes_read / 1e6 / seconds:,.1f}"
    return f" ({loaded / seconds:,.0f} records/s{'' if volume == '0.0' else f', {volume} MB/s'})"
