"""The threads of an export: a block is read, and an older one written, while the next one comes from the server."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from etl.exporting.receiving import Block

_WAITING = 2
"""Blocks that are read or written; each takes some 30 MB."""

Rows = TypeVar("Rows")


def each_beside(source: Iterable[Block], read: Callable[[bytes], Rows], write: Callable[[Block, Rows], None]) -> None:
    """Read and write each block, in two other threads and in their order.

    Raises the first error of either, when all blocks before have ended.
    """
    waiting: deque[Future[None]] = deque()
    with (
        ThreadPoolExecutor(1, thread_name_prefix="export-read") as reading,
        ThreadPoolExecutor(1, thread_name_prefix="export-write") as writing,
    ):
        for block in source:
            rows = reading.submit(read, block.rows)
            waiting.append(writing.submit(_write, write, block, rows))
            del block, rows  # They are large, and wait for their threads.
            if len(waiting) > _WAITING:
                waiting.popleft().result()
        for future in waiting:
            future.result()


def _write(write: Callable[[Block, Rows], None], block: Block, rows: "Future[Rows]") -> None:
    write(block, rows.result())
