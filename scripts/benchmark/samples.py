"""The files that are loaded: shipments as `etl generate` makes them, alone, with children, or with faults.

Knows no database. A sample is made once per folder; its manifest, written last, says that it is complete.
"""

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, cast
from zlib import crc32

import msgspec

from etl.generate.network import ITEMS, Sizes
from etl.generate.records import RECORDS

Fault = Literal["none", "check", "type", "nul"]

_SEED = 1
_BLOCK = 500  # records a write
_WEIGHT = re.compile(r'"weight_kg":(\d+)\.(\d{3}),')
_CARRIER = re.compile(r'"carrier":"[^"]*"')
_FREIGHT = re.compile(r'"freight_cost":[\d.]+')


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a sample holds; `fault` spoils one record in a hundred."""

    suffix: Literal[".json", ".ndjson", ".ndjson.gz"]
    fault: Fault = "none"
    items: int = 0
    stops: int = 0


RECIPES = {
    "array": Recipe(suffix=".json"),
    "ndjson": Recipe(suffix=".ndjson"),
    "gz": Recipe(suffix=".ndjson.gz"),
    "bad_check": Recipe(suffix=".json", fault="check"),
    "bad_type": Recipe(suffix=".json", fault="type"),
    "bad_nul": Recipe(suffix=".json", fault="nul"),
    "items": Recipe(suffix=".json", items=3),
    "children": Recipe(suffix=".json", items=3, stops=2),
}


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A file, and the content of the tables after it is loaded: rows of each table, and kilograms in the first."""

    path: str
    records: int
    bytes: int
    rows: tuple[int, ...]
    grams: int


def make(name: str, records: int, folder: Path) -> Sample:
    """Return the sample of that name; a file that is complete in the folder is taken as it is."""
    recipe = RECIPES[name]
    manifest = folder / f"{name}-{records}.manifest"
    if manifest.exists():
        return msgspec.json.decode(manifest.read_bytes(), type=Sample)
    path = folder / f"{name}-{records}{recipe.suffix}"
    with _opened(path) as file:
        loaded, grams = _write(file, recipe, records)
    rows = (loaded, *(loaded * each for each in (recipe.items, recipe.stops) if each))
    sample = Sample(path=str(path), records=records, bytes=path.stat().st_size, rows=rows, grams=grams)
    manifest.write_bytes(msgspec.json.encode(sample))
    return sample


def _opened(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "wb", compresslevel=6)) if path.suffix == ".gz" else path.open("wb")


def _write(file: BinaryIO, recipe: Recipe, records: int) -> tuple[int, int]:
    """Write the records in blocks; return how many of them can load, and their weight."""
    before, between, end = ("[\n", ",\n", "\n]\n") if recipe.suffix == ".json" else ("", "\n", "\n")
    loaded = grams = 0
    shipments = islice(RECORDS["shipments"](_SEED, 1, Sizes()), records)
    made = (_record(text, number, recipe) for number, text in enumerate(shipments, start=1))
    while block := list(islice(made, _BLOCK)):
        file.write((before + between.join([text for text, _ in block])).encode())
        before = between
        weights = [weight for _, weight in block if weight is not None]
        loaded += len(weights)
        grams += sum(weights)
    file.write(end.encode())
    return loaded, grams


def _record(text: str, number: int, recipe: Recipe) -> tuple[str, int | None]:
    """Return the record as the recipe wants it, and its weight in grams; None when it is one that must not load."""
    text = text.rpartition(',"items":')[0]
    kilograms, grams = _weight(text)
    # The checksum scatters the bad ones: a pattern in the numbers might fit the size of a batch.
    if recipe.fault != "none" and crc32(b"%d" % number) % 100 == 0:
        return _spoiled(text, recipe.fault) + "}", None
    items = f',"items":[{",".join(_items(number, recipe.items))}]' if recipe.items else ""
    stops = f',"stops":[{",".join(_stops(number, recipe.stops))}]' if recipe.stops else ""
    return f"{text}{items}{stops}}}", kilograms * 1000 + grams


def _spoiled(text: str, fault: Fault) -> str:
    if fault == "check":
        return _WEIGHT.sub('"weight_kg":-1,', text)
    if fault == "type":
        return _FREIGHT.sub('"freight_cost":"on request"', text)
    return _CARRIER.sub(r'"carrier":"a\\u0000b"', text)


def _weight(text: str) -> tuple[int, int]:
    found = _WEIGHT.search(text)
    if found is None:
        raise ValueError("expected a weight_kg with three places in each generated shipment")
    return int(found[1]), int(found[2])


def _items(number: int, count: int) -> Iterator[str]:
    return (ITEMS[(number * 7 + place * 1013) % len(ITEMS)].text for place in range(count))


def _stops(number: int, count: int) -> Iterator[str]:
    return (
        f'{{"place":"HUB-{(number + each) % 500}","at":"2025-03-{each + 1:02}T06:30:00Z"}}' for each in range(count)
    )
