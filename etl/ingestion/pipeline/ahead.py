"""Work that is done a little at a time while the program waits for something else."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from etl.ingestion.pipeline.stopping import Stop

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """The items of a generator, made one ahead: it yields None between the parts of its work, and its items.

    When an item is ready, `beyond` parts of the next one are done, too, so that there is work during a slow moment of
    the consumer. An error of the generator is raised after the items before it were taken.
    """

    def __init__(self, items: Iterator[Item | None], beyond: int = 0) -> None:
        self._items = items
        self._most_beyond = beyond
        self._beyond = 0
        self._ready: deque[Item] = deque()
        self._error: Exception | None = None
        self._is_done = False

    def work(self) -> bool:
        """Do one part of the work; return False, and do nothing, when enough is ready."""
        if self._is_done or len(self._ready) > 1 or (self._ready and self._beyond >= self._most_beyond):
            return False
        self._beyond = self._beyond + 1 if self._ready else 0
        try:
            item = next(self._items)
            if item is not None:
                self._ready.append(item)
        except StopIteration:
            self._is_done = True
        except Exception as error:  # noqa: BLE001 - raised by next(), where it belongs
            self._error = error
            self._is_done = True
        return True

    def next(self) -> Item | None:
        """Return the next item, or None at the end.

        Raises what the generator raised.
        """
        while not self._ready and not self._is_done:
            self.work()
        if self._ready:
            return self._ready.popleft()
        if self._error is not None:
            raise self._error
        return None

    def until(self, stop: Stop) -> Iterator[Item]:
        """Yield the items in order.

        Raises InterruptedByUserError when a signal comes while the next item is waited for.
        """
        while True:
            with stop.reading():
                item = self.next()
            if item is None:
                return
            yield item
