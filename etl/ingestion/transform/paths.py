"""A piece -> its batch, by one of two paths that give the same rows.

The fast path sends the tokens that it accepts. All other records, and all records of a batch that the server refuses,
go through the checked path, which converts value by value. `--decoder ijson` uses the checked path alone.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import islice

from etl.datasets import Dataset
from etl.errors import InternalError
from etl.ingestion.framing import decoding
from etl.ingestion.framing.spans import Spans
from etl.ingestion.transform.fastpath import FastPath
from etl.ingestion.transform.projection import Projection
from etl.ingestion.transform.shapes import NoShape, Shape, shape
from etl.ingestion.values import Batch, Block, Piece, Proof, Unmade
from etl.quick_dataclasses import dataclass

_RECORDS_TOGETHER = 64
_BYTES_TOGETHER = 1 << 20
"""Records that the checked path converts together. Small, so that one odd value sends few records to the slow way, and
few bytes, because a decoded record takes many times its bytes."""

_STRICT_BATCHES = 64
_CHECKED_BATCHES = 8
"""How many batches stay on the stricter path after a refusal: bad records come in clusters."""


_WORTHWHILE = 4
_LONGEST_PAUSE = 8
_LARGE_BATCH = 1000
"""If fewer than one in so many records of a large batch are unchanged, the records of the next batches are not
compared: after the first such batch of one batch, after further ones of at most so many."""


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """A run leaves unchanged records as they are; `is_examining`: their unknown members are counted nevertheless."""

    is_examining: bool


class CheckedPath:
    """Decodes with ijson and converts value by value."""

    def __init__(self, projection: Projection, run_number: int) -> None:
        self._projection = projection
        self._run_number = run_number

    def of_run(self, run_number: int) -> "CheckedPath":
        """Return this path for the records of another run."""
        return CheckedPath(self._projection, run_number)

    def batching(self, piece: Piece) -> Iterator[Batch | None]:
        """Yield None after each part of the work, and the batch at its end."""
        places = range(1, piece.count + 1)
        builder = self._projection.builder(piece, self._run_number)
        if digests := self._projection.digests:
            blocks = piece.blocks or ((0, piece.length),)
            texts = (text for block in blocks for text in Spans(piece.between(*block), piece.shape).wholes)
            builder.digests = dict(zip(places, digests.of(texts), strict=True))
        records = decoding.decode(piece)
        together = min(_RECORDS_TOGETHER, 1 + _BYTES_TOGETHER * piece.count // max(1, piece.length))
        done = 0
        while chunk := list(islice(records, together)):
            builder.note_unknown(chunk)
            builder.add_all(places[done : done + len(chunk)], chunk)
            done += len(chunk)
            yield None
        if done != piece.count:
            raise InternalError(f"of {piece.count} records at byte {piece.offset} {done} were decoded")
        yield builder.batch(piece, places)


class Paths:
    """Chooses the path of each piece: the fast one, or a stricter one for some batches after a refusal."""

    def __init__(
        self,
        fast: FastPath | None,
        strict: FastPath | None,
        checked: CheckedPath,
        comparing: Comparing | None = None,
    ) -> None:
        """Choose between these paths; those that are `comparing` make the rows of changed records alone."""
        self._comparing = comparing
        self._pause = 0
        self._next_pause = 1
        self._fast = fast
        self._strict = strict
        self._checked = checked
        self._strict_for = 0
        self._checked_for = 0

    def prove(self, block: Block) -> Proof | None:
        """Return how many records a block holds, and their rows, or None where the cutter has to check it itself."""
        path = self._strict if self._strict_for else self._fast
        # A proof makes rows, and most of them may not be needed.
        is_late = self._checked_for or (self._comparing and not self._pause)
        return None if path is None or is_late else path.prove(block)

    def batching(self, piece: Piece) -> Iterator[Batch | None]:
        """Yield None after each part of the work, and the batch at its end."""
        path: FastPath | CheckedPath = self._fast or self._checked
        if self._strict_for and self._strict:
            self._strict_for -= 1
            path = self._strict
        if self._checked_for:
            self._checked_for -= 1
            path = self._checked
        if piece.shape == "keyed":
            path = self._checked
        if self._comparing and isinstance(path, FastPath):
            return self._keys_first(path, piece, self._comparing)
        return path.batching(piece)

    def whole(self, piece: Piece, run_number: int) -> Batch:
        """Return the batch of a piece of another run, on a path that makes all checks of the definition itself."""
        path: FastPath | CheckedPath = self._checked if piece.shape == "keyed" else self._strict or self._checked
        for batch in path.of_run(run_number).batching(piece):
            if batch is not None:
                return batch
        raise InternalError("a piece ended without its batch")

    def _keys_first(self, path: FastPath, piece: Piece, comparing: Comparing) -> Iterator[Batch | None]:
        """Make the keys of a batch first; but not those of some batches after one of which most records changed."""
        if self._pause:
            self._pause -= 1
            for batch in path.batching(piece):
                yield None if batch is None else replace(batch, compares=False)
        elif any(piece.block_rows) or not path.can_compare(piece):
            yield from path.batching(piece)
        else:
            for batch in path.keys_first(piece, is_examining=comparing.is_examining):
                yield batch if batch is None or batch.unmade is None else self._noting(batch, batch.unmade)

    def _noting(self, batch: Batch, unmade: Unmade) -> Batch:
        def make(unchanged: Collection[int]) -> Batch:
            if len(unchanged) * _WORTHWHILE < batch.piece.count and batch.piece.count >= _LARGE_BATCH:
                self._pause, self._next_pause = self._next_pause, min(_LONGEST_PAUSE, self._next_pause * 2)
            else:
                self._next_pause = 1
            return unmade.make(unchanged)

        return replace(batch, unmade=Unmade(keys=unmade.keys, make=make))

    def again(self, refused: Batch) -> Iterator[Batch]:
        """Yield a batch that the server refused, as each stricter path makes it."""
        fast = self._fast
        # A batch that was made before the fast path became stricter: its refusal says nothing new.
        is_late = refused.path == "fast" and refused.maker is not self._fast
        if refused.path == "fast" and self._strict:
            for batch in self._closer(self._strict, refused):
                self._strict_for = 0 if is_late or self._fast is not fast else _STRICT_BATCHES
                yield batch
        if refused.path != "checked":
            for batch in self._closer(self._checked, refused):
                self._checked_for = 0 if is_late or self._fast is not fast else _CHECKED_BATCHES
                self._strict_for = 0 if self._fast is not fast else self._strict_for
                yield batch

    def _closer(self, path: FastPath | CheckedPath, refused: Batch) -> Iterator[Batch]:
        """Yield the batch of a path; the fast path checks the columns of its new faults alone from now on."""
        for batch in path.batching(refused.piece):
            if batch is not None:
                columns = {(rejected.fault.table, rejected.fault.column) for rejected in batch.rejected}
                columns -= {(rejected.fault.table, rejected.fault.column) for rejected in refused.rejected}
                if self._fast and (stricter := self._fast.suspecting(columns)):
                    self._fast = stricter
                yield batch


class LateProver:
    """Proves blocks by the paths of a run, once these are known."""

    def __init__(self) -> None:
        self.paths: Paths | None = None

    def prove(self, block: Block) -> Proof | None:
        """Return how many records a block holds, or None where the cutter has to check it itself."""
        return None if self.paths is None else self.paths.prove(block)


def fast(dataset: Dataset) -> Shape | str:
    """Return the dataset as the fast path sees it, or the reason why the fast path cannot load it."""
    try:
        return shape(dataset)
    except NoShape as reason:
        return str(reason)
