"""How signals and a limit of time stop a load: after its current batch, and at once if that takes too long."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import structlog

from etl.ingestion.pipeline.job import Stop

log = structlog.get_logger(__name__)


@contextmanager
def ending_after(seconds: float | None) -> Iterator[None]:
    """Send SIGTERM to this process when the block takes longer."""
    if seconds is None:
        yield
        return

    def end() -> None:
        log.warning("timed_out", seconds=seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """Let the first SIGTERM, SIGINT or SIGHUP stop the load after the current batch, and the second one at once.

    A batch that is not done some seconds after the first signal ends as by a second one. A SIGHUP that nohup ignores
    stays ignored.
    """
    stop = Stop()

    def note(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGALRM and not stop.signal_number:
            number = signal.SIGTERM  # It came before this, and Python dropped the exception that it raised.
        if not stop.signal_number:
            log.warning("stopping", signal=number, then="after the current batch")
            signal.setitimer(signal.ITIMER_REAL, stop.grace_seconds)
        stop.note(number)

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGALRM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        with stop.interrupting():
            yield stop
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
