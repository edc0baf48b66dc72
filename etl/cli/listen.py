"""`etl listen`."""

import signal
from types import FrameType

import click

from etl.cli.options import Common
from etl.precalculation import catalogue, listener

_AGAIN_SECONDS = 2


@click.command("listen", epilog="Example: etl listen")
@click.pass_obj
def command(common: Common) -> int:
    """Refresh the aggregates whenever a load finishes, until a signal comes.

    What loads with --no-precalculate left behind is caught up first; changes made by hand are found once a minute.
    A second listener of the same database stands by. SIGTERM ends it with exit code 0.
    """
    signals: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        # Python swallows what is raised while it lets go of an object: then it is raised once more.
        signal.alarm(_AGAIN_SECONDS)
        raise KeyboardInterrupt  # psycopg cancels what the server is doing, and the refresh is rolled back

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, end)
    try:
        chosen = catalogue.read_all(common.config_dir)
        with common.database() as database:
            listener.listen(database, chosen)
    except KeyboardInterrupt:
        signal.alarm(0)
        return 0 if signals[0] == signal.SIGTERM else 130
