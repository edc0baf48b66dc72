"""Shared by the commands: options, also those of `etl.toml` with their variables, the database, and printing."""

import codecs
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from etl.cli import messages
from etl.errors import EtlError, ExitCode, UsageError
from etl.options import Setting, build, setting_of, settings_of
from etl.quick_dataclasses import dataclass
from etl.settings import LoadSettings, OutputSettings, RetrySettings
from etl.standard_streams import one_line

if TYPE_CHECKING:
    from etl import metrics
    from etl.database.connecting import Database
    from etl.logs import Logs
    from etl.provisioning import Patience


def option(name: str, *more: str, **attributes: Any) -> Callable[[Any], Any]:
    """Return a Click option of one command. It has no environment twin: a twin would change other commands, too."""
    return click.option(name, *more, **attributes)


class _Folder(click.Path):
    """A folder. An empty name, such as that of an unset shell variable, would be the working folder."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        super().__init__()
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("expected a folder, got an empty name", param, ctx)
        return self._read(str(super().convert(value, param, ctx)))


def settings_options(settings_class: type) -> Callable[[Any], Any]:
    """Add the options of a settings class to a command, which gets their values by parameter (see `given_by`)."""

    def decorate(command: Any) -> Any:
        for setting in reversed(settings_of(settings_class)):
            command = _option_of(setting)(command)
        return command

    return decorate


def given_by(settings_class: type, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a settings class by name that a flag, the environment or `etl.toml` gives to a command."""
    source_of = click.get_current_context().get_parameter_source
    return {
        setting.name: not parameters[setting.parameter] if setting.is_negated else parameters[setting.parameter]
        for setting in settings_of(settings_class)
        if source_of(setting.parameter) is not ParameterSource.DEFAULT
    }


def _option_of(setting: Setting, *, has_twins: bool = True) -> Callable[[Any], Any]:
    """Return the Click option of a setting, with its environment twins unless the command is not the one of its key."""
    twins = setting.twins if has_twins else ()
    attributes: dict[str, Any] = {
        "help": setting.option.help,
        "metavar": setting.option.metavar,
        "envvar": list(twins) if len(twins) > 1 else next(iter(twins), None),
        "show_envvar": bool(twins),
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
        if setting.option.metavar == "DIR":
            return _Folder(setting.option.read or Path)
        return click.Path(path_type=Path)
    if setting.kind in {int, float} and bounds != (None, None):
        return click.IntRange(*bounds) if setting.kind is int else click.FloatRange(*bounds)
    return None if setting.kind is bool else setting.written


json_option = _option_of(setting_of(OutputSettings, "as_json"), has_twins=False)
json_option_of_load = _option_of(setting_of(OutputSettings, "as_json"))
failed_dir_option = _option_of(setting_of(LoadSettings, "failed_dir"))
no_precalculate_option = _option_of(setting_of(LoadSettings, "precalculate"), has_twins=False)


def retry_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the retry options to a command, which gets them as `retries`, and `retry_for` by itself."""
    own = [setting for setting in settings_of(LoadSettings) if setting.group == "retries"]
    retry_for = setting_of(LoadSettings, "retry_for")

    @wraps(command)
    def gathered(*arguments: Any, **others: Any) -> Any:
        given = {setting.name: others.pop(setting.parameter) for setting in own}
        return command(*arguments, retries=build(LoadSettings, given).retries, **others)

    decorated: Callable[..., Any] = gathered
    for setting in (retry_for, *reversed(own)):
        decorated = _option_of(setting)(decorated)
    return decorated


def metrics_option(name: "metrics.Command") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --metrics-file to a command, which gets a `report`; the file is written with the exit code at the end."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def reported(*arguments: Any, metrics_file: Path | None, **others: Any) -> Any:
            from etl import metrics

            with metrics.Report(metrics_file, name, click.get_current_context().params.get("dataset") or "") as report:
                code = command(*arguments, report=report, **others)
                report.exit_code = ExitCode.SUCCESS if code is None else code
            return report.exit_code

        decorated: Callable[..., Any] = _option_of(setting_of(OutputSettings, "metrics_file"))(reported)
        return decorated

    return decorate


@dataclass(frozen=True, kw_only=True)
class Common:
    """The options before the command: the configuration folder, the logs, and the database by flag and by file."""

    config_dir: Path
    given: str | None
    from_file: str | None
    logs: "Logs"
    is_quiet: bool = False

    @property
    def address(self) -> str:
        """The address of the database (contract C2)."""
        from etl.database.connecting import choose

        return choose(self.given, self.from_file, os.environ)

    @property
    def name(self) -> str:
        """`host/dbname` of the database, without a connection to it."""
        from etl.database.connecting import Database, embedded_folder

        return Database(conninfo=self.address, embedded=embedded_folder(self.address) is not None).name

    @contextmanager
    def looking(self) -> Iterator["Database"]:
        """Yield the database for a command that only looks: nothing is made, and a missing database is an error."""
        from etl.provisioning import opened

        with opened(self.address, self.config_dir, creates=False) as database, _refusals_as_errors(database):
            yield database

    @contextmanager
    def server(self, *, creates: bool = True) -> Iterator["Database"]:
        """Yield the database with its server started, whether it is migrated or not."""
        from etl.database.connecting import require_existing, serving

        if creates:
            self.announce_creation()
        else:
            require_existing(self.address)
        with serving(self.address) as database, _refusals_as_errors(database):
            yield database

    @contextmanager
    def database(
        self, patience: "Patience | None" = None, *, creates: bool = True, connects: bool = False
    ) -> Iterator["Database"]:
        """Yield the database with its server started, and migrated; `patience` is for one that is away at the start.

        With `creates=False` an embedded server that is missing is an error: what the command is about is elsewhere.
        `connects`: the command connects at once.
        """
        from etl.database.connecting import require_existing
        from etl.provisioning import opened

        if creates:
            self.announce_creation()
        else:
            require_existing(self.address)
        opening = opened(self.address, self.config_dir, patience, connects=connects)
        with opening as database, _refusals_as_errors(database):
            yield database

    def announce_creation(self) -> None:
        """Say that an embedded server is made, if there is none: it takes some seconds."""
        from etl.database.connecting import embedded_folder

        folder = embedded_folder(self.address)
        if folder is None:
            return
        from etl.embedded import Server

        if not Server(folder).exists():
            print_note(f"creating a PostgreSQL in {folder} (once, some seconds)")

    def patience(self, retries: RetrySettings, seconds: float) -> "Patience":
        """Return for how long a command waits for a database that is away at its start, which it says once."""
        from etl.provisioning import Patience

        def tell(error: EtlError) -> None:
            print_note(f"waiting for the database, at most {seconds:g} s: {error}")

        return Patience(settings=retries, seconds=seconds, tell=tell)


@contextmanager
def _refusals_as_errors(database: "Database") -> Iterator[None]:
    """Turn an error of the server that no other code handled into an EtlError."""
    import psycopg

    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(f"{database.name} denies access: {error.diag.message_primary}", hint="etl db check") from error
    except psycopg.Error as error:
        from etl.ingestion.destination.refusals import as_etl_error

        raise as_etl_error(error, database) from error


@contextmanager
def explaining_swapped(
    command: Sequence[str], dataset: str, sources: Sequence[str], config_dir: Path
) -> Iterator[None]:
    """Say of an unknown dataset that a source may be in its place: it is a file, or a source is a dataset."""
    from etl import datasets

    try:
        yield
    except UsageError as error:
        known = datasets.names(config_dir)
        named = [source for source in sources if source in known]
        if dataset in known or not (named or Path(dataset).exists()):
            raise
        others = [source for source in sources if source not in named[:1]]
        line = shlex.join(["etl", *command, *(named[:1] or ["DATASET"]), dataset, *others])
        raise UsageError(f"{error}: swapped arguments?", hint=line if named else f"expected {line}") from error


def print_json(documents: Iterable[Mapping[str, Any]]) -> None:
    """Print one JSON object per line on stdout; what another encoding than UTF-8 does not have is escaped as JSON."""
    import msgspec

    is_utf8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    for document in documents:
        text = msgspec.json.encode(document).decode()
        click.echo(text if is_utf8 or text.isascii() else _NOT_ASCII.sub(_escaped, text))


_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def _escaped(match: re.Match[str]) -> str:
    return json.dumps(match[0]).strip('"')


class LedgerCode(int):
    """An exit code that the ledger has, too: a command keeps it when its output cannot be written."""


def print_text(text: str) -> None:
    """Print one line for people on stdout; control characters of names and values are escaped."""
    click.echo(one_line(text))


def print_facts(facts: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result of a command in one line on stdout: as JSON, or as a text for people."""
    if as_json:
        print_json([facts])
    else:
        print_text(text)


def print_note(text: str) -> None:
    """Tell one line on stderr; control characters of names and values are escaped."""
    messages.note(text)


_AGE = re.compile(r"([0-9]{1,6})([hdw])")


def parsed_age(text: str, name: str = "--older-than") -> timedelta:
    """Return the age that an option names.

    Raises UsageError.
    """
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{name} expects an age such as 30d, 12h or 4w, got {text!r}")
    return timedelta(hours=int(match[1]) * {"h": 1, "d": 24, "w": 168}[match[2]])
