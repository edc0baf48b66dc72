"""`etl listen`."""

import signal
from types import FrameType

import click
import psycopg

from etl.cli.groups import Command
from etl.cli.options import Common, json_option, metrics_option, option, print_facts
from etl.errors import ExitCode, SignalledError, UsageError
from etl.metrics import Report
from etl.precalculation import catalogue, listener

_AGAIN_SECONDS = 2


@click.command("listen", cls=Command, epilog="Example: etl listen")
@option(
    "--check",
    "is_check",
    is_flag=True,
    help="Check whether a listener runs on the database: exit code 0 if so, else 4.",
)
@metrics_option("listen")
@json_option
@click.pass_obj
def command(common: Common, *, is_check: bool, as_json: bool, report: Report) -> int:
    """Refresh the aggregates whenever a load finishes, until a signal arrives.

    The first refresh covers earlier loads with --no-precalculate; changes made by hand are found once a minute.
    A second listener on the same database waits until the first one ends. SIGTERM ends a listener with exit code 0.
    """
    if is_check:
        report.withdraw()
        with common.server(creates=False) as database:
            pid = listener.check(database)
        facts = {"database": database.name, "backend": pid}
        print_facts(facts, f"a listener runs on {database.name}, backend {pid}", as_json=as_json)
        return ExitCode.SUCCESS
    if as_json:
        raise UsageError("--json is for --check", hint="the log is JSON with --log-format json")
    return _listen(common, report)


def _listen(common: Common, report: Report) -> int:
    """Listen until a signal arrives; return the exit code."""
    signals: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        # Python drops an exception that is raised while it finalises an object: the alarm raises it again.
        signal.alarm(_AGAIN_SECONDS)
        raise SignalledError  # psycopg cancels the statement, and the refresh is rolled back

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, end)
    try:
        chosen = catalogue.readable(common.config_dir)
        with common.database() as database:
            listener.listen(database, chosen, after_round=lambda connection: _write(report, connection))
    except KeyboardInterrupt:
        signal.alarm(0)
        return ExitCode.SUCCESS if signals[0] == signal.SIGTERM else ExitCode.SIGINT


def _write(report: Report, connection: psycopg.Connection) -> None:
    report.look(connection)
    report.write()
