"""Sample data: shipments with items, tracking events, vehicle logs and vehicles that fit together.

The records are the state of a network on the morning after the last of 731 days; the clock is never read.
The same arguments give the same bytes on every machine and version of Python. The numbers of the datasets fit with any
seed (a shipment names an existing log, a log names an existing vehicle). Their content fits if they are generated with
the same seed and sizes: an event then describes its shipment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import BinaryIO, Literal

from etl.errors import UsageError
from etl.generate.faults import FAULTS, faults, spoiled
from etl.generate.network import Sizes
from etl.generate.records import RECORDS

__all__ = ["DATASETS", "FAULTS", "GenerateResult", "Sizes", "faults", "generate"]

DATASETS = tuple(RECORDS)
BLOCK = 500  # records of one write; larger blocks are no faster
_SIZES = Sizes()


@dataclass(frozen=True, kw_only=True)
class GenerateResult:
    """The number of written records, and of the spoiled ones among them by the name of their fault."""

    records: int
    bad: Mapping[str, int]


def generate(  # noqa: PLR0913 - one parameter for each option of the command
    dataset: str,
    *,
    records: int,
    output: BinaryIO,
    format: Literal["array", "ndjson"] = "array",
    seed: int = 1,
    bad: float = 0.0,
    first: int = 1,
    sizes: Sizes = _SIZES,
) -> GenerateResult:
    """Write records number `first` to `first + records - 1` of a dataset as UTF-8 JSON, one per line.

    `bad` is the share (0 to 1) of records to spoil. Each fault that makes sense in the dataset (see `faults`) gets an
    equal part; only duplicate_key has none before the first unspoiled record. Memory does not depend on `records`.
    Raises UsageError for an unknown dataset or format, and for a number out of its range.
    """
    counts = dict.fromkeys(faults(dataset), 0)
    if format not in ("array", "ndjson"):
        raise UsageError(f"expected format array or ndjson, got {format}")
    if not 0 <= bad <= 1:
        raise UsageError(f"expected a share of bad records from 0 to 1, got {bad}")
    if min(records, first - 1, sizes.shipments - 1, sizes.vehicle_logs - 1, sizes.vehicles - 1) < 0:
        raise UsageError(f"expected records >= 0, first and sizes >= 1, got {records}, {first}, {sizes}")
    texts = RECORDS[dataset](seed, first, sizes)
    if bad:
        texts = spoiled(texts, dataset, seed=seed, first=first, bad=bad, counts=counts)
    before, between, end = ("[\n", ",\n", "\n]\n") if format == "array" else ("", "\n", "\n")
    for start in range(0, records, BLOCK):
        block = between.join(islice(texts, min(BLOCK, records - start)))
        output.write((before + block).encode())
        before = between
    if records:
        output.write(end.encode())
    elif format == "array":
        output.write(b"[]\n")
    return GenerateResult(records=records, bad=MappingProxyType(counts))
