"""The commands: parse, call one function, print, exit code. Nothing else."""

import difflib
import importlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from etl.cli.options import Common, option
from etl.errors import EtlError, ExitCode, UsageError, gravest
from etl.version import __version__

if TYPE_CHECKING:
    from etl.logs import LogFormat

# Each command is the module of its name; what it does stands here, too, so that --help need not import them all.
_COMMANDS = {
    "load": "Load sources into a dataset: files, globs, folders, URLs, or - for standard input.",
    "runs": "Show what was loaded, when, from where, and how it ended.",
    "failed": "Show the records that were refused, correct them, and load them again.",
    "precalculate": "Bring aggregates up to date with the facts: those named, or all.",
    "listen": "Refresh the aggregates whenever a load finishes, until a signal comes.",
    "report": "Show an aggregate, its newest rows first; without a name, how fresh each is, as html with charts.",
    "dataset": "Show, check and propose dataset definitions, and make their tables.",
    "db": "Run the embedded PostgreSQL, and bring a database to what the loads need.",
    "init": "Write a configuration folder of your own: etl.toml, one dataset and a sample; nothing is overwritten.",
    "generate": "Write sample data: shipments, vehicle_logs, vehicles or tracking_events.",
}


# The commands whose options `etl.toml` gives defaults to.
TAKE_FROM_FILE = ("load", "failed", "precalculate", "listen")

_SUBCOMMANDS = ("list", "show", "replay", "discard", "purge")


class _Lazy(click.Group):
    """A group that imports a command's module when the command is named: start-up costs what is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - Click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - Click's signature
        if cmd_name not in _COMMANDS:
            return None
        importlib.import_module(
            "etl.logs"
        )  # The first to import structlog: it sees to it that rich does not come along.
        command: click.Command = importlib.import_module(f"etl.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is named, or tell which one was meant."""
        if not args[0].startswith("-") and args[0] not in _COMMANDS and not ctx.resilient_parsing:
            close = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            meant = f" Did you mean '{close[0]}'?" if close else ""
            ctx.fail(f"No such command '{args[0]}'.{meant}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer commands by their names, and options."""
        offered = [CompletionItem(name, help=told) for name, told in _COMMANDS.items() if name.startswith(incomplete)]
        return [*offered, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - the same
        """Write the list of the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="etl")
@option("--config-dir", default="./config", show_default=True, metavar="DIR", help="Folder of etl.toml and datasets/.")
@option(
    "--database",
    envvar=["ETL_DATABASE_URL", "DATABASE_URL"],
    metavar="URL",
    help="postgresql:// address or embedded:[FOLDER]; else libpq's PG* variables, else etl.toml.",
)
@option(
    "--log-format",
    type=click.Choice(["auto", "console", "json"]),
    default="auto",
    show_default=True,
    help="Format of the logs; auto is console on a terminal and JSON elsewhere.",
)
@option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least level of the logs.",
)
@click.pass_context
def cli(ctx: click.Context, config_dir: str, database: str | None, log_format: "LogFormat", log_level: str) -> None:
    """Load huge JSON files of logistics data into PostgreSQL: nothing lost, nothing doubled.

    Exit codes: 0 all in; 1 some records rejected; 2 wrong usage; 3 source unreadable; 4 database away;
    5 too many rejected; 6 busy; 70 a fault of this tool; 129, 130 and 143 stopped by a signal.
    """
    from etl import logs
    from etl.settings import read_file_settings

    if is_given(ctx, "config_dir") and ctx.invoked_subcommand != "init" and not Path(config_dir).is_dir():
        raise UsageError(f"the configuration folder {config_dir} is missing", hint="name another by --config-dir")
    settings = read_file_settings(Path(config_dir))
    defaults = settings.as_defaults()
    # A group's subcommands look below the group's own defaults.
    ctx.default_map = {name: defaults | dict.fromkeys(_SUBCOMMANDS, defaults) for name in TAKE_FROM_FILE}
    given = {
        name: defaults[name] for name in ("log_format", "log_level") if name in defaults and not is_given(ctx, name)
    }
    log_format, log_level = given.get("log_format", log_format), given.get("log_level", log_level)
    told = logs.Logs(format=log_format, level=log_level, colors=use_colors())
    logs.set_up(told)
    ctx.obj = Common(config_dir=Path(config_dir), given=database, from_file=settings.database, logs=told)


def is_given(ctx: click.Context, name: str) -> bool:
    """Tell whether a parameter was given by flag or environment."""
    return ctx.get_parameter_source(name) != click.core.ParameterSource.DEFAULT


def use_colors() -> bool:
    """Tell whether stderr is a terminal that wants colours."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def main() -> None:
    """Run the command line and end the process with the exit code of contract C3."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    _open_what_was_closed()
    terminated: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        terminated.append(number)
        raise KeyboardInterrupt  # As Ctrl-C: what was opened is closed, and an embedded server is not left running.

    signal.signal(signal.SIGTERM, end)
    code = run(sys.argv[1:])
    sys.exit(128 + terminated[0] if terminated and code == ExitCode.SIGINT else code)


def _open_what_was_closed() -> None:
    """Put nothing in the place of a standard stream that was closed, before a connection takes its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors are told in a sentence on stderr."""
    try:
        result: Any = cli.main(args=arguments, prog_name="etl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.SIGINT
    except EtlError as error:
        tell(error)
        return gravest([error.exit_code])
    except Exception as error:  # noqa: BLE001 - the last door: a fault of this tool, told as such (exit code 70)
        if isinstance(error, UnicodeEncodeError) and (place := _place_of(error.object, arguments)):
            # Bytes of a path may be no UTF-8, those of a name, a reason or a value may not.
            click.echo(f"error: expected UTF-8 in {place}", err=True)
            return ExitCode.USAGE
        import structlog

        if not structlog.is_configured():
            from etl import logs

            logs.set_up(logs.Logs(colors=use_colors()))
        log = structlog.get_logger("etl")
        log.error("unexpected_fault", **_told(error), hint="report it with this text")  # noqa: TRY400 - see _told
        return ExitCode.INTERNAL_FAULT
    return result if isinstance(result, int) else ExitCode.SUCCESS


def _place_of(word: str, arguments: list[str]) -> str | None:
    """Return which argument or variable holds a word; the word itself may be an address with a password."""
    held = [f"argument {number}" for number, argument in enumerate(arguments, 1) if word in argument]
    held += [name for name, value in os.environ.items() if word in value]
    return held[0] if held else None


def _told(error: Exception) -> dict[str, Any]:
    """Return what is told of an unexpected error: its type and where it rose, in no case a value of the data.

    Only the messages of these types speak of nothing but code; that of a ValueError may quote a record.
    """
    import traceback

    told: dict[str, Any] = {"fault": type(error).__name__, "frames": traceback.format_tb(error.__traceback__)}
    if isinstance(error, AttributeError | ImportError | NameError | TypeError):
        told["message"] = str(error)
    return told


def tell(error: EtlError) -> None:
    """Tell an error on stderr: what is wrong, then the next command."""
    click.echo(f"error: {error}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
