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
from etl.options import Setting, build, setting_of, settings_of
from etl.settings import LoadSettings, OutputSettings

if TYPE_CHECKING:
    from etl import metrics
    from etl.database.connecting import Database
    from etl.logs import Logs


def option(name: str, *more: str, **attributes: Any) -> Callable[[Any], Any]:
    """Return a Click option of one command with its environment twin, `ETL_` and the option in capitals."""
    twin = "ETL_" + name.removeprefix("--").replace("-", "_").upper()
    attributes.setdefault("envvar", twin)
    attributes.setdefault("show_envvar", True)
    return click.option(name, *more, **attributes)


class _Folder(click.Path):
    """A folder; no name at all, as of a variable that is not set, would be the working folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("expected a folder, got an empty name", param, ctx)
        return super().convert(value, param, ctx)


def settings_options(settings_class: type) -> Callable[[Any], Any]:
    """Give a command the options of a settings class; it gets their values by parameter (see `given_by`)."""

    def decorate(command: Any) -> Any:
        for setting in reversed(settings_of(settings_class)):
            command = _option_of(setting)(command)
        return command

    return decorate


def given_by(settings_class: type, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a settings class by name, from the values that a command got by parameter."""
    return {
        setting.name: not parameters[setting.parameter] if setting.is_negated else parameters[setting.parameter]
        for setting in settings_of(settings_class)
    }


def _option_of(setting: Setting) -> Callable[[Any], Any]:
    """Return the Click option of a setting."""
    attributes: dict[str, Any] = {
        "help": setting.option.help,
        "metavar": setting.option.metavar,
        "envvar": list(setting.twins) if len(setting.twins) > 1 else next(iter(setting.twins), None),
        "show_envvar": bool(setting.twins),
        "type": _type_of(setting),
    }
    if setting.kind is bool:
        attributes |= {"is_flag": True}
    elif setting.default is not None:
        attributes |= {"default": setting.default_written, "show_default": True}
    return click.option(f"--{setting.key.replace('_', '-')}", setting.parameter, **attributes)


def _type_of(setting: Setting) -> Any:
    bounds: tuple[Any, Any] = (setting.option.least, setting.option.most)
    if setting.choices:
        return click.Choice(setting.choices)
    if setting.kind is Path:
        return _Folder(path_type=Path) if setting.option.metavar == "DIR" else click.Path(path_type=Path)
    if setting.kind in {int, float} and bounds != (None, None):
        return click.IntRange(*bounds) if setting.kind is int else click.FloatRange(*bounds)
    return None if setting.kind is bool else setting.written


json_option = _option_of(setting_of(OutputSettings, "as_json"))
failed_dir_option = _option_of(setting_of(LoadSettings, "failed_dir"))


def retry_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of retrying, as one parameter `retries`."""
    own = [setting for setting in settings_of(LoadSettings) if setting.group == "retries"]

    @wraps(command)
    def gathered(*arguments: Any, **others: Any) -> Any:
        given = {setting.name: others.pop(setting.parameter) for setting in own}
        return command(*arguments, retries=build(LoadSettings, given).retries, **others)

    decorated: Callable[..., Any] = gathered
    for setting in reversed(own):
        decorated = _option_of(setting)(decorated)
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

        decorated: Callable[..., Any] = _option_of(setting_of(OutputSettings, "metrics_file"))(reported)
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
