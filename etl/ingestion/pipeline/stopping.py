"""The stop event of a command: set by a signal, looked at before each batch."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from etl.errors import InterruptedByUserError

# How long a signal may wait to be seen: Python continues to sleep after it.
LOOK_SECONDS = 0.1

_HINT = "run the same command to continue"


class Stop:
    """The stop event: the first signal sets it, the second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.signal_number = 0
        self._is_reading = False

    def note(self, number: int) -> None:
        """Take a signal: the first sets the event and ends a wait for the source, the second raises at once."""
        if self.signal_number:
            raise KeyboardInterrupt  # psycopg cancels the statement of the server and rolls back
        self.signal_number = number
        if self._is_reading:
            self.check()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let a signal interrupt this block, which waits for the source while no batch is open.

        Raises InterruptedByUserError.
        """
        self._is_reading = True
        try:
            self.check()
            yield
        finally:
            self._is_reading = False

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise InterruptedByUserError where a second signal interrupts this block."""
        try:
            yield
        except KeyboardInterrupt:
            raise self._at_once() from None

    def check(self) -> None:
        """Raise InterruptedByUserError when a signal came."""
        if self.signal_number:
            raise InterruptedByUserError(
                f"stopped by signal {self.signal_number}", signal_number=self.signal_number, hint=_HINT
            )

    def _at_once(self) -> InterruptedByUserError:
        """Return the error of a second signal; its exit code is that of the first."""
        return InterruptedByUserError("stopped at once", signal_number=self.signal_number, hint=_HINT)

    def wait(self, seconds: float) -> None:
        """Sleep; raise InterruptedByUserError soon after a signal came."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, LOOK_SECONDS))
        self.check()
