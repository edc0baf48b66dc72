"""Work that is done a little at a time while the program waits for something else."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from etl.ingestion.destination.sending import Result, Waiting
from etl.ingestion.pipeline.job import Stop

Item = TypeVar("Item")


def interleave(conversation: Waiting[Result], work: Callable[[], bool]) -> Result:
    """Hold a conversation with the server to its end, and do other work whenever it waits.

    `work` does one part and returns whether there was any. An error of it ends the conversation.
    """
    try:
        next(conversation)
        while True:
            try:
                did_work = work()
            except BaseException as error:
                conversation.throw(error)
                raise
            conversation.send(did_work)
    except StopIteration as end:
        result: Result = end.value
        return result


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
        except Exception as error:  # noqa: BLE001 - raised by until(), where it belongs
            self._error = error
            self._is_done = True
        return True

    def until(self, stop: Stop) -> Iterator[Item]:
        """Yield the items in order.

        Raises InterruptedByUserError when a signal comes while the next item is waited for, and what the generator
        raised, after its items.
        """
        while True:
            with stop.reading():
                while not self._ready and not self._is_done:
                    self.work()
            if not self._ready:
                break
            yield self._ready.popleft()
        if self._error is not None:
            raise self._error
