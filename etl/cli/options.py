"""What the commands share: options with their environment twins, the database, and printing."""

import datetime as dt
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etl.errors import ExitCode, UsageError, reason_of
from etl.ingestion import constants

if TYPE_CHECKING:
    from etl import metrics
    from etl.database.connecting import Database
    from etl.logs import Logs


def option(name: str, *more: str, has_twin: bool = True, **attributes: Any) -> Callable[[Any], Any]:
    """Return a Click option with its environment twin, `ETL_` and the option in capitals."""
    if has_twin:
        twin = "ETL_" + name.split("/", maxsplit=1)[0].removeprefix("--").replace("-", "_").upper()
        attributes = {"envvar": twin, "show_envvar": True} | attributes
    return click.option(name, *more, **attributes)


json_option = option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")


class _Folder(click.Path):
    """A folder; no name at all, as of a variable that is not set, would be the working folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("expected a folder, got an empty name", param, ctx)
        return super().convert(value, param, ctx)


failed_dir_option = option(
    "--failed-dir",
    default="failed",
    show_default=True,
    metavar="DIR",
    type=_Folder(path_type=Path, file_okay=True),
    help="Folder of the failed store.",
)


_RETRY_OPTIONS = (
    option(
        "--retry-attempts",
        type=click.IntRange(1, 100),
        default=constants.RETRY_ATTEMPTS,
        show_default=True,
        help="Tries of a batch when the database has a passing fault.",
    ),
    option(
        "--retry-base-seconds",
        type=click.FloatRange(0.001, 600),
        default=constants.RETRY_BASE_SECONDS,
        show_default=True,
        help="First wait between tries, doubled each time.",
    ),
    option(
        "--retry-cap-seconds",
        type=click.FloatRange(0.001, 3600),
        default=constants.RETRY_CAP_SECONDS,
        show_default=True,
        help="Longest wait between tries.",
    ),
)


def retry_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of retrying, as one parameter `retries`."""

    @wraps(command)
    def gathered(
        *arguments: Any, retry_attempts: int, retry_base_seconds: float, retry_cap_seconds: float, **others: Any
    ) -> Any:
        from etl.settings import RetrySettings

        retries = RetrySettings(attempts=retry_attempts, base_seconds=retry_base_seconds, cap_seconds=retry_cap_seconds)
        return command(*arguments, retries=retries, **others)

    decorated: Callable[..., Any] = gathered
    for add in reversed(_RETRY_OPTIONS):
        decorated = add(decorated)
    return decorated


def metrics_option(name: "metrics.Command") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the metrics file, as one parameter `report`, written with its exit code at its end."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def reported(*arguments: Any, metrics_file: Path | None, **others: Any) -> Any:
            from etl import metrics

            with metrics.Report(metrics_file, name, others.get("dataset") or "") as report:
                report.exit_code = command(*arguments, report=report, **others) or ExitCode.SUCCESS
            return report.exit_code

        add = option(
            "--metrics-file",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Tell Prometheus of it in this file, as node_exporter's textfile collector reads it.",
        )
        decorated: Callable[..., Any] = add(reported)
        return decorated

    return decorate


@dataclass(frozen=True, kw_only=True)
class Common:
    """What stands before the command: where settings are, and the database by flag or environment and by file."""

    config_dir: Path
    given: str | None
    from_file: str | None
    logs: "Logs"

    @property
    def address(self) -> str:
        """The database that is meant (contract C2)."""
        from etl.database.connecting import choose

        return choose(self.given, self.from_file, os.environ)

    @property
    def name(self) -> str:
        """`host/dbname` of the database that is meant, without reaching it."""
        from etl.database.connecting import Database, embedded_folder

        return Database(conninfo=self.address, embedded=embedded_folder(self.address) is not None).name

    @contextmanager
    def server(self) -> Iterator["Database"]:
        """Yield the database, served, migrated or not."""
        from etl.database.connecting import serving

        with serving(self.address) as database, _refusals_told(database):
            yield database

    @contextmanager
    def database(self) -> Iterator["Database"]:
        """Yield the database, served and migrated."""
        from etl.provisioning import opened

        with opened(self.address, self.config_dir) as database, _refusals_told(database):
            yield database


@contextmanager
def _refusals_told(database: "Database") -> Iterator[None]:
    """Turn what the server refuses, and nobody has told better, into a sentence and an exit code."""
    import psycopg

    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(f"{database.name} denies it: {error.diag.message_primary}", hint="etl db check") from error
    except psycopg.Error as error:
        from etl.ingestion.pipeline.outcome import lost

        raise lost(error, database) from error


def print_json(documents: Iterable[Mapping[str, Any]], echo: Callable[[str], None] = click.echo) -> None:
    """Print one JSON object per line on stdout."""
    import msgspec

    for document in documents:
        echo(msgspec.json.encode(document).decode())


def outlive_reader() -> None:
    """Let a command that changes something go on when nobody reads what it prints by `say`."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def say(text: str) -> None:
    """Print a line on stdout; where nobody takes it, work and exit code are worth more than the line."""
    try:
        click.echo(text)
    except OSError as error:
        import structlog

        structlog.get_logger(__name__).warning("output_lost", reason=reason_of(error))
        # What is still in the buffer would end the process with another exit code.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout: drawn to the width of a terminal, never cut elsewhere."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    is_terminal = sys.stdout.isatty()
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    justify: dict[int, bool] = {}
    for row in rows:
        for place, value in enumerate(row):
            justify[place] = justify.get(place, True) and isinstance(value, int | float)
        table.add_row(*map(_shown, row))
    for place, is_number in justify.items():
        table.columns[place].justify = "right" if is_number else "left"
    Console(highlight=False, markup=False, width=None if is_terminal else 250).print(table)


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, dt.datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return str(value)
