"""`etl failed`."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from etl.cli import completion, next_commands, print_error
from etl.cli.failed_records import Selected, Shown, document
from etl.cli.groups import Group
from etl.cli.options import (
    Common,
    LedgerCode,
    failed_dir_option,
    json_option,
    metrics_option,
    no_precalculate_option,
    option,
    parsed_age,
    print_json,
    print_note,
    print_text,
    retry_options,
)
from etl.cli.tables import Column, print_table
from etl.database.connecting import connect
from etl.errors import EtlError, UsageError, combined, gravest
from etl.ingestion.failed_store import leftovers
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import failures, history, runs
from etl.ingestion.pipeline import purging, replay
from etl.ingestion.pipeline.replay import NotPending, ReplayFilter, ReplayResult
from etl.metrics import Report
from etl.precalculation.refresh import RefreshResult
from etl.settings import RetrySettings, Url


@click.group("failed", cls=Group)
def command() -> None:
    """Show the records that were refused, correct them, and load them again."""


def _selecting(verb: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the ways to name files of the failed store to a command, which gets them as `wanted`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def gathered(
            *arguments: Any,
            ids: tuple[str, ...],
            run: tuple[str, ...],
            dataset: str | None,
            is_all: bool,
            **others: Any,
        ) -> Any:
            if not (ids or run or dataset or is_all):
                raise UsageError(f"nothing is named to {verb.lower()}", hint="name ids, --run, --dataset or --all")
            wanted = Selected(ids=ids, runs=run, dataset=dataset, is_all=is_all)
            return command(*arguments, wanted=wanted, **others)

        help_of_run = f"{verb} all pending files of this run, or of several; latest: the newest one."
        for each in (
            option("--all", "is_all", is_flag=True, help=f"{verb} all pending files."),
            option("--dataset", shell_complete=completion.datasets, help=f"{verb} all pending files of this dataset."),
            option("--run", multiple=True, shell_complete=completion.runs, help=help_of_run),
            click.argument("ids", nargs=-1, metavar="[ID...]", shell_complete=completion.failures),
        ):
            gathered = each(gathered)
        return gathered

    return decorate


@command.command("list", epilog="Example: etl failed list --dataset shipments")
@option("--run", shell_complete=completion.runs, help="Only files of this run; latest: the newest one.")
@option("--dataset", shell_complete=completion.datasets, help="Only files of this dataset.")
@option("--all", "show_all", is_flag=True, help="Also files that were replayed, discarded or superseded.")
@json_option
@click.pass_obj
def list_command(common: Common, run: str | None, dataset: str | None, show_all: bool, as_json: bool) -> None:
    """List the pending files of the failed store."""
    with common.looking() as database, connect(database) as connection:
        run = history.name_of(connection, run, dataset) if run else None
        stored = failures.find(connection, run=run, dataset=dataset, state=None if show_all else "pending")
    if as_json:
        print_json(map(vars, stored))
        return
    if not stored:
        kept = "no file of the failed store" if show_all else "nothing waits"
        of = f" of {run or dataset}" if run or dataset else ""
        print_text(f"{kept}{of} in {database.place}")
        return
    print_table(
        "failed store",
        [
            *(Column("id"), Column("dataset", 1), Column("source", 3, "path"), Column("kind", 5)),
            *(Column("state", 0 if show_all else 6), Column("records"), Column("sqlstate", 4)),
            *(Column("first fault", kind="text"), Column("attempts", 7)),
        ],
        [
            (
                *(failure.id, failure.dataset, failure.source, failure.kind, failure.state),
                *(failure.count_records, failure.sqlstate, failure.message, failure.attempts),
            )
            for failure in stored
        ],
    )


@command.command("show", epilog="Example: etl failed show --run latest")
@_selecting("Show")
@option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Show at most N records, each with its whole text. Default: on a terminal what fits on it, elsewhere all.",
)
@failed_dir_option
@json_option
@click.pass_obj
def show_command(common: Common, wanted: Selected, limit: int | None, failed_dir: Path | Url, as_json: bool) -> None:
    """Show refused records: their place, fault and text, the files to correct, and the commands that come next."""
    with common.looking() as database, connect(database) as connection:
        chosen = wanted.find(connection)
        faults = history.faults_of(connection, [failure.id for failure in chosen])
    if not chosen:
        if not as_json:
            print_text(f"nothing waits{wanted.of} in {database.place}")
        return
    with FailedStore(failed_dir) as store:
        if as_json:
            print_json(document(store, failure) for failure in chosen)
        else:
            shown = Shown(store, chosen, faults, wanted, limit)
            shown.print()
            if shown.errors:
                raise combined(shown.errors)


@command.command("replay", epilog="Example: etl failed replay --dataset shipments")
@_selecting("Replay")
@option("--allow-empty", is_flag=True, help="Also into tables whose rows are gone, if they were removed on purpose.")
@no_precalculate_option
@failed_dir_option
@metrics_option("replay")
@retry_options
@json_option
@click.pass_obj
def replay_command(
    common: Common,
    wanted: Selected,
    allow_empty: bool,
    no_precalculate: bool,
    failed_dir: Path | Url,
    retries: RetrySettings,
    retry_for: float,
    as_json: bool,
    report: Report,
) -> int:
    """Load records of the failed store again, as their .ndjson files hold them now.

    Exit code 0 when all are loaded, 1 when some are refused again: these wait under a new id with their new reason.
    """
    with (
        common.database(common.patience(retries, retry_for), creates=False) as database,
        FailedStore(failed_dir) as store,
    ):
        replay_filter = ReplayFilter(ids=wanted.ids, runs=wanted.runs, dataset=wanted.dataset, allow_empty=allow_empty)
        selection = replay.select(replay_filter, database, common.config_dir, store)
        if not selection.failures:
            print_note(f"nothing waits{wanted.of} in {database.place}")
        results = replay.replay_all(
            selection, database, common.config_dir, store, retries, precalculates=not no_precalculate
        )
        codes = {
            _print_replayed(result, wanted, report, as_json=as_json)
            for result in results
            if not isinstance(result, RefreshResult)
        }
        report.look_at(database)
    return LedgerCode(gravest(codes))


def _print_replayed(
    result: ReplayResult | NotPending | EtlError, wanted: Selected, report: Report, *, as_json: bool
) -> int:
    """Print what became of one file, and return its exit code."""
    if isinstance(result, EtlError):
        print_error(result)
    elif isinstance(result, NotPending):
        _note_not_pending(result, is_named=bool(wanted.ids))
    else:
        counts = {"loaded": result.loaded, "rejected": result.rejected, "failed": result.failed}
        report.count(result.dataset, counts)
        _print_result(result, as_json=as_json)
    return result.exit_code


def _note_not_pending(result: NotPending, *, is_named: bool) -> None:
    rest = f"; what was refused again waits as {', '.join(result.waiting)}" if result.waiting else ""
    if is_named or rest:
        print_note(f"{result.id} does not wait: {result.state}{rest}")


def _print_result(result: ReplayResult, *, as_json: bool) -> None:
    if as_json:
        print_json([vars(result)])
        return
    again = f"; waits as {', '.join(result.stored)}" if result.stored else ""
    if result.stored:
        again += f"; next: {next_commands.command('failed', 'show', *result.stored)}"
    print_text(
        f"replayed {result.id}: {result.loaded:,} loaded, {result.rejected + result.failed:,} refused again{again}"
    )


@command.command("discard", epilog="Example: etl failed discard 20261121T081500Z-3f9a1c-10233-r --reason 'test data'")
@_selecting("Discard")
@option("--reason", required=True, help="Why these records will never be loaded; the ledger keeps it.")
@failed_dir_option
@json_option
@click.pass_obj
def discard_command(common: Common, wanted: Selected, reason: str, failed_dir: Path | Url, as_json: bool) -> None:
    """Give up records of the failed store for a reason; their files stay."""
    if not reason.strip():
        raise UsageError("--reason expects a reason")
    errors = []
    with common.database(creates=False) as database, connect(database) as connection, FailedStore(failed_dir) as store:
        store.belong_to(runs.database_id(connection))
        chosen = wanted.find(connection)
        if not chosen:
            print_note(f"nothing waits{wanted.of}")
        for failure in chosen:
            if not failures.discard(connection, failure.id, reason):
                state = failures.named(connection, failure.id).state
                if wanted.ids:
                    errors.append(UsageError(f"{failure.id} does not wait: {state}", hint="etl failed list --all"))
                else:  # It waited when this command began.
                    print_note(f"{failure.id} does not wait any more: {state}")
                continue
            store.note_state(*failure.key, "discarded", reason)
            if as_json:
                print_json([{"id": failure.id, "count_records": failure.count_records, "reason": reason}])
            else:
                print_text(f"discarded {failure.id}: {failure.count_records:,} records")
    if errors:
        raise combined(errors)


@command.command("purge", epilog="Example: etl failed purge --older-than 30d")
@option("--older-than", required=True, metavar="AGE", help="Least age since they were refused, as in 30d, 12h or 4w.")
@option("--dataset", shell_complete=completion.datasets, help="Only files of this dataset.")
@failed_dir_option
@json_option
@click.pass_obj
def purge_command(common: Common, older_than: str, dataset: str | None, failed_dir: Path | Url, as_json: bool) -> None:
    """Remove the files of records that were replayed, discarded or superseded; pending files are never removed.

    Files that a crash left and that the ledger does not name are moved aside first, and removed when they are old.
    The ledger keeps the result of each file, without the text of its records.
    """
    age = parsed_age(older_than)
    removed = count_records = count_bytes = 0
    with common.database(creates=False) as database, connect(database) as connection, FailedStore(failed_dir) as store:
        store.belong_to(runs.database_id(connection))
        for file in purging.purge(connection, store, age, dataset):
            removed, count_bytes = removed + 1, count_bytes + file.bytes
            failure = file.failure
            count_records += failure.count_records if failure else 0
            if as_json:
                facts = vars(failure) if failure else {"id": file.name, "state": "aside"}
                print_json([facts | {"bytes": file.bytes}])
            elif failure:
                print_text(f"removed {failure.id}: {failure.count_records:,} records, {failure.state}")
            else:
                print_text(f"removed {file.name}, which a crash left")
    if not as_json:
        print_text(f"{removed:,} files with {count_records:,} records removed, {count_bytes:,} bytes")


@command.command("adopt", epilog="Example: etl failed adopt")
@failed_dir_option
@json_option
@click.pass_obj
def adopt_command(common: Common, failed_dir: Path | Url, as_json: bool) -> None:
    """Take over the files of another database whose place this one has taken, as after the restore of a dump.

    Each file belongs to the database that refused its records. Do not adopt files that another database still uses.
    """
    adopted = 0
    with common.database(creates=False) as database, connect(database) as connection, FailedStore(failed_dir) as store:
        store.belong_to(runs.database_id(connection))
        for dataset, run in runs.every(connection):
            adopted += leftovers.adopt(store, dataset, run)
    if as_json:
        print_json([{"adopted": adopted}])
    else:
        print_text(f"{adopted:,} files belong to this database now")
