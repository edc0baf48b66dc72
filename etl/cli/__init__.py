"""The commands. Each parses its arguments, calls one function, prints the result and returns an exit code."""

import difflib
import errno
import gc
import importlib
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from etl import standard_streams
from etl.cli import groups, messages
from etl.cli.groups import Group, with_options_first
from etl.cli.options import Common, LedgerCode, option, settings_options
from etl.errors import (
    DONE,
    EtlError,
    ExitCode,
    InterruptedByUserError,
    OutputError,
    SignalledError,
    UsageError,
    gravest,
    reason_of,
)
from etl.settings import FileSettings, GlobalSettings, LogFormat, LogLevel, read_file_settings
from etl.version import __version__, quick_versions

if TYPE_CHECKING:
    from etl.logs import Logs

# Each command is the module of its name. Its help text is repeated here, so that --help does not import them all.
_COMMANDS = {
    "load": "Load sources into a dataset: files, globs, folders, URLs, or - for standard input.",
    "runs": "Show what was loaded, when, from where, and how it ended; take a run back; shorten the ledger.",
    "failed": "Show the records that were refused, correct them, and load them again.",
    "precalculate": "Bring all aggregates, or the named ones, up to date with the facts.",
    "listen": "Refresh the aggregates whenever a load finishes, until a signal arrives.",
    "serve": "Serve the aggregates over HTTP until a signal arrives.",
    "collect": "Accept events over HTTP and load them as they come, until a signal arrives.",
    "retention": "Remove the partitions of a dataset that are older, and refresh the aggregates.",
    "key": "Make, list and revoke the keys of `etl serve --auth keys`.",
    "report": "Show an aggregate, newest rows first. Without a name: when each was refreshed, in html also charts.",
    "export": "Write tables of one instant to files. Without a name: all facts and aggregates.",
    "sql": "Answer a query of SQL from the last export, by DuckDB and without a server.",
    "dataset": "Show, check and propose dataset definitions, and create their tables.",
    "db": "Run the embedded PostgreSQL, and prepare a database for loads.",
    "init": "Write a new configuration folder: etl.toml, one dataset and a sample. Existing files are kept.",
    "generate": "Write sample data: shipments, vehicle_logs, vehicles or tracking_events.",
}


# The commands whose options get defaults from `etl.toml`.
TAKE_FROM_FILE = ("load", "failed", "precalculate", "listen", "serve", "collect")

_UNTIL_A_SIGNAL = ("listen", "serve", "collect")

_SUBCOMMANDS = ("list", "show", "replay", "discard", "purge", "adopt")


_OF_FILES = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR})
"""Reasons why a path cannot be used, whatever this tool does with it: a person must change the path or its rights."""


_AGAIN_SECONDS = 1
"""How long after a signal its exception is raised again if Python dropped it."""


class _CommandError(Exception):
    """An error in a command that Click would handle itself; the error is its cause."""


class _Lazy(Group):
    """A group that imports the module of a command only when the command is named, so that start-up is fast."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options before the command; they are accepted after it, too."""
        if not ctx.resilient_parsing:
            args = with_options_first(self, ctx, args)
            messages.begin(args, os.environ)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - Click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - Click's signature
        if cmd_name not in _COMMANDS:
            return None
        # First, because they import structlog without rich, and tenacity without tornado.
        importlib.import_module("etl.logs")
        importlib.import_module("etl.retrying")
        with nullcontext() if "importlib.metadata" in sys.modules else quick_versions():
            command: click.Command = importlib.import_module(f"etl.cli.{cmd_name}").command
        if not gc.isenabled():
            gc.freeze()  # What is imported stays.
            gc.enable()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the named command; suggest the closest name for an unknown one."""
        if not args[0].startswith("-") and args[0] not in _COMMANDS and not ctx.resilient_parsing:
            close = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            meant = f" Did you mean '{close[0]}'?" if close else ""
            ctx.fail(f"No such command '{args[0]}'.{meant}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command; keep from Click the errors of a pipe or a stream that is not a standard one.

        Click would end the process with 1, or take them for a Ctrl-C.
        """
        try:
            return super().invoke(ctx)
        except (OSError, EOFError) as error:
            if isinstance(error, OSError) and error.errno in _OF_FILES and isinstance(error.filename, str | Path):
                raise UsageError(f"cannot use {error.filename}: {reason_of(error)}") from error
            raise _CommandError from error

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the names of commands, and options."""
        offered = [CompletionItem(name, help=text) for name, text in _COMMANDS.items() if name.startswith(incomplete)]
        return [*offered, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - the same
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", prog_name="etl")
@settings_options(GlobalSettings)
@option("-v", "--verbose", "is_verbose", is_flag=True, help="Log everything: --log-level debug.")
@option("-q", "--quiet", "is_quiet", is_flag=True, help="Log errors only, without a progress bar: --log-level error.")
@click.pass_context
def cli(
    ctx: click.Context,
    config_dir: str,
    database: str | None,
    log_format: LogFormat,
    log_level: str | None,
    is_verbose: bool,
    is_quiet: bool,
) -> None:
    """Load huge JSON files of logistics data into PostgreSQL: nothing is lost, nothing is loaded twice.

    Exit codes: 0 all loaded; 1 some records rejected; 2 wrong usage; 3 source unreadable; 4 database away;
    5 too many rejected; 6 busy; 70 a fault of this tool; 129, 130 and 143 stopped by a signal.
    """
    _require_working_folder()
    if is_given(ctx, "config_dir") and ctx.invoked_subcommand != "init" and not Path(config_dir).is_dir():
        raise UsageError(
            f"the configuration folder {config_dir} is missing", hint="give another folder with --config-dir"
        )
    settings = read_file_settings(Path(config_dir))
    defaults_of = {name: settings.as_defaults(name) for name in TAKE_FROM_FILE}
    # Click looks for the defaults of a subcommand below those of its group.
    ctx.default_map = {name: values | dict.fromkeys(_SUBCOMMANDS, values) for name, values in defaults_of.items()}
    log_settings = _log_settings(ctx, settings, log_format, log_level, is_verbose=is_verbose, is_quiet=is_quiet)
    messages.use(log_settings)
    messages.warn_of_unknown(os.environ)
    ctx.obj = Common(
        config_dir=Path(config_dir),
        given=database,
        from_file=settings.database,
        logs=log_settings,
        is_quiet=is_quiet,
    )


def _log_settings(
    ctx: click.Context,
    settings: FileSettings,
    log_format: LogFormat,
    log_level: str | None,
    *,
    is_verbose: bool,
    is_quiet: bool,
) -> "Logs":
    """Return how to log: by the options; those that are not given come from the file with settings."""
    from etl import logs

    defaults = settings.as_defaults()
    given = {
        name: defaults[name] for name in ("log_format", "log_level") if name in defaults and not is_given(ctx, name)
    }
    log_format, log_level = given.get("log_format", log_format), given.get("log_level", log_level)
    if is_verbose or is_quiet:
        log_level = _level_of(ctx, is_verbose=is_verbose, is_quiet=is_quiet)
    log_level = log_level or default_log_level(log_format, ctx.invoked_subcommand)
    return logs.Logs(format=log_format, level=log_level, colors=use_colors())


def _level_of(ctx: click.Context, *, is_verbose: bool, is_quiet: bool) -> LogLevel:
    """Return the log level of -v or -q; on the command line only one option may name it."""
    is_named = ctx.get_parameter_source("log_level") is click.core.ParameterSource.COMMANDLINE
    if is_verbose + is_quiet + is_named > 1:
        raise UsageError("-v, -q and --log-level name different log levels", hint="give one of them")
    return "debug" if is_verbose else "error"


def default_log_level(log_format: LogFormat, command: str | None) -> str:
    """Return the lowest level that is logged unless it is given.

    On a terminal the bar, the summary and the notes say what a person needs. A command that runs until a signal has
    only its log.
    """
    shows_result = log_format != "json" and command not in _UNTIL_A_SIGNAL and standard_streams.is_drawn_on(sys.stderr)
    return "warning" if shows_result else "info"


def _require_working_folder() -> None:
    """Raise UsageError when the working folder is deleted or may not be entered: every relative path is in it."""
    try:
        Path.cwd()
        os.stat(os.curdir)  # noqa: PTH116 - through the folder itself, not by its name
    except OSError as error:
        raise UsageError(
            f"the working folder cannot be used: {reason_of(error)}", hint="change to a folder that exists: cd"
        ) from error


def is_given(ctx: click.Context, name: str) -> bool:
    """Return whether a parameter was given by flag or environment."""
    return ctx.get_parameter_source(name) != click.core.ParameterSource.DEFAULT


def use_colors() -> bool:
    """Return whether stderr is a terminal, and `NO_COLOR` is not set."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def main() -> None:
    """Run the command line and end the process with the exit code of contract C3."""
    standard_streams.install()
    terminated: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGALRM and _interruption_of(sys.exc_info()[1]) is not None:
            return  # The command is closing what it has opened.
        terminated.append(number)
        # Python drops an exception that is raised while it finalises an object: the alarm raises it again.
        signal.alarm(_AGAIN_SECONDS)
        raise SignalledError  # As for Ctrl-C, all is closed and an embedded server is stopped.

    messages.take_over_from_python(_describe_fault)
    try:
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, end)
        signal.signal(signal.SIGTERM, end)
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = ExitCode.SIGINT
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # The result is there: no signal changes it.
    code = 128 + terminated[0] if terminated and code == ExitCode.SIGINT else code
    sys.exit(_with_output(code))


def _with_output(code: int) -> int:
    """Return the exit code of a command, or 4 when its work is done and its result could not be written."""
    lost = standard_streams.lost_output()
    if lost is None:
        return code
    if isinstance(code, LedgerCode):
        messages.logger().warning("output_lost", reason=reason_of(lost))
        return code
    if standard_streams.has_no_reader(lost) or code not in DONE:
        return code
    print_error(OutputError(f"the result cannot be written: {reason_of(lost)}", hint="run the same command again"))
    return ExitCode.DATABASE_AWAY


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; an error is one sentence on stderr."""
    messages.begin(arguments, os.environ)
    try:
        result = _call(arguments)
    except click.ClickException as error:
        messages.refuse(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.SIGINT
    except EtlError as error:
        print_error(error)
        return gravest([error.exit_code])
    except Exception as error:  # noqa: BLE001 - any other error is a fault of this tool: exit code 70
        return _end_of(error, arguments)
    finally:
        groups.forget()
    return result if isinstance(result, int) else ExitCode.SUCCESS


def _end_of(error: Exception, arguments: list[str]) -> int:
    """Return the exit code of a command that an unexpected error ended; a fault of this tool is logged."""
    if (interruption := _interruption_of(error)) is not None:
        return interruption
    if isinstance(error, UnicodeEncodeError) and (place := _place_of(error.object, arguments)):
        # A path may have bytes that are not UTF-8; a name, a reason or a value may not.
        print_error(UsageError(f"expected UTF-8 in {place}"))
        return ExitCode.USAGE
    _report_fault(error.__cause__ if isinstance(error, _CommandError) else error)
    return ExitCode.INTERNAL_FAULT


def _interruption_of(error: BaseException | None) -> int | None:
    """Return the exit code of the signal that caused an error, None for another cause.

    What a signal raises in the middle of an import reaches us as the cause of a RuntimeError or an ImportError.
    """
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return ExitCode.SIGINT
        if isinstance(error, InterruptedByUserError):
            return error.exit_code
        error = error.__cause__ or error.__context__
    return None


def _call(arguments: list[str]) -> Any:
    """Call a command and return its result."""
    try:
        return cli.main(args=arguments, prog_name="etl", standalone_mode=False)
    except standard_streams.OutputLostError:
        return ExitCode.SUCCESS  # `main` reports the reason.
    except SystemExit as end:  # of shell completion
        return end.code


def _report_fault(error: BaseException | None) -> None:
    """Log a fault of this tool."""
    messages.logger().error("unexpected_fault", **_describe_fault(error), hint="report this text")


def _place_of(word: str, arguments: list[str]) -> str | None:
    """Return the argument or variable that has a word; the word itself may be an address with a password."""
    places = [f"argument {number}" for number, argument in enumerate(arguments, 1) if word in argument]
    places += [name for name, value in os.environ.items() if word in value]
    return places[0] if places else None


def _describe_fault(error: BaseException | None) -> dict[str, Any]:
    """Return the type and the frames of an unexpected error, never a value of the data.

    The message is part of it only for types whose messages are about code; that of a ValueError may quote a record.
    """
    import traceback

    frames = traceback.format_tb(error.__traceback__ if error else None)
    fault: dict[str, Any] = {"fault": type(error).__name__, "frames": frames}
    if isinstance(error, AttributeError | ImportError | NameError | TypeError):
        fault["message"] = str(error)
    return fault


def print_warning(error: EtlError) -> None:
    """Tell on stderr what is wrong where it hinders nothing of this command."""
    messages.warn(error)


def print_error(error: EtlError, **about: Any) -> None:
    """Tell an error on stderr: what is wrong, then the next command. `about` says what it ended, in the JSON log."""
    messages.fail(error, **about)
