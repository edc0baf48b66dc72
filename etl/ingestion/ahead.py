"""Work that goes on a little at a time while something else is waited for. Pure."""

from collections.abc import Iterator
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """What a generator makes, one ahead: it yields None between the parts of its work, and what it made.

    An error of the generator comes when what it made before was asked for.
    """

    def __init__(self, making: Iterator[Made | None]) -> None:
        self._making = making
        self._made: Made | None = None
        self._error: Exception | None = None
        self._is_done = False

    def go_on(self) -> bool:
        """Do one part of the work; False, and nothing, when one is made already."""
        if self._made is not None or self._is_done:
            return False
        try:
            self._made = next(self._making)
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
        while self._made is None and not self._is_done:
            self.go_on()
        made, self._made = self._made, None
        if made is None and self._error is not None:
            raise self._error
        return made
