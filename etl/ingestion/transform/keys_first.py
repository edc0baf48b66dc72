"""A piece -> the keys and the digests of its records, before their rows: only changed records become rows. Pure.

Of a block only the members of the key are decoded. That proves nothing about the other members, and need not: a record
with the digest of a loaded row has the bytes of a record that was checked when it was loaded, and a changed record is
decoded as a whole when its row is made.
"""

from collections.abc import Iterator, Sequence

import msgspec

from etl.errors import InternalError
from etl.ingestion.fingerprints import RecordDigests
from etl.ingestion.framing import decoding
from etl.ingestion.framing.blocks import UNDECODABLE, Decoders, RecordBlock
from etl.ingestion.framing.boundaries import is_utf8
from etl.ingestion.transform.lines import Columns, TableLines
from etl.ingestion.transform.projection import Projection
from etl.ingestion.transform.shapes import shape


class KeyLines:
    """Makes the keys of records, as the lines of CSV of a table of their own."""

    def __init__(self, projection: Projection, guarded: Columns, suspected: Columns) -> None:
        dataset = projection.dataset
        table, digests = dataset.digested_table, projection.digests
        if table is None or digests is None:
            raise InternalError(f"the dataset {dataset.name} has no table with digests")
        self._projection = projection
        self._digests: RecordDigests = digests
        by_name = {column.name: column for column in table.columns}
        of_keys = msgspec.structs.replace(
            table, columns=tuple(map(by_name.__getitem__, dataset.key)), where=(), partition_by=None
        )
        keys = shape(msgspec.structs.replace(dataset, tables=(of_keys,), on_unknown="ignore"))
        [(_, columns)] = keys.tables
        self._decoders = Decoders(keys.record)
        self._empty = keys.record()
        self._lines = TableLines(keys, of_keys, columns, guarded, suspected)
        *names, _run, _batch, place, digest = self._lines.columns
        self.columns = (*names, place, digest)

    def of(self, block: RecordBlock, first: int) -> tuple[bytes, int, int] | None:
        """Return the lines of a block whose first record has this place, their number, and that of the records.

        A record without a key that can load has no line. None: only the checked path can read the key of a record.
        """
        suspects: set[int] = set()
        try:
            records: Sequence[msgspec.Struct] = block.decoded(self._decoders)
        except UNDECODABLE:
            records = list(self._one_by_one(block, suspects))
        digests = self._digests.of(block.wholes(len(records)))
        tails = list(map(b"%d\x1f%d".__mod__, zip(range(first, first + len(records)), digests, strict=True)))
        parts, count = self._lines.rows(records, tails, suspects, None, (), ()).without(suspects)
        [lines] = parts.values()
        if any(self._has_key(block, place) for place in suspects) or not is_utf8(lines):
            return None
        return lines, count, len(records)

    def _has_key(self, block: RecordBlock, place: int) -> bool:
        """Return whether the checked path reads a key in a record."""
        span = block.spans[place]
        record = decoding.decode_one(block.data[span.start : span.end])
        return not span.fault and any(self._projection.keys_of(record).values())

    def _one_by_one(self, block: RecordBlock, suspects: set[int]) -> Iterator[msgspec.Struct]:
        for place, span in enumerate(block.spans):
            text = None if span.fault else block.record_text(place, span)
            try:
                yield self._empty if text is None else self._decoders.one.decode(text)
            except UNDECODABLE:
                text = None
                yield self._empty
            if text is None:
                suspects.add(place)
