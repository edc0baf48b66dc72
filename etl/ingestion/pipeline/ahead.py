"""Work that goes on a little at a time while something else is waited for. Pure."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """What a generator makes, one ahead: it yields None between the parts of its work, and what it made.

    When one is made, `beyond` parts of the next are done, too, so that there is work while a slow moment of whoever
    takes them is waited for. An error of the generator comes when what it made before was asked for.
    """

    def __init__(self, making: Iterator[Made | None], beyond: int = 0) -> None:
        self._making = making
        self._most_beyond = beyond
        self._beyond = 0
        self._made: deque[Made] = deque()
        self._error: Exception | None = None
        self._is_done = False

    def go_on(self) -> bool:
        """Do one part of the work; False, and nothing, when enough is made already."""
        if self._is_done or len(self._made) > 1 or (self._made and self._beyond >= self._most_beyond):
            return False
        self._beyond = self._beyond + 1 if self._made else 0
        try:
            made = next(self._making)
            if made is not None:
                self._made.append(made)
        except StopIteration:
            self._is_done = True
        except Exception as error:  # noqa: BLE001 - raised by next(), where it belongs
            self._error = error
            self._is_done = True
        return True

    def next(self) -> Made | None:
        """Return the next one made, or None at the end.

        Raises what the generator raised.
        """
        while not self._made and not self._is_done:
            self.go_on()
        if self._made:
            return self._made.popleft()
        if self._error is not None:
            raise self._error
        return None
