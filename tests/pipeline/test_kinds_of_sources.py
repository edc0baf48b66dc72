"""Each kind of source is loaded, recognised and continued; in this process, by the pipeline itself."""

import bz2
import gzip
import io
import json
import lzma
import sys
import zipfile
from dataclasses import dataclass
from typing import Any

import pytest

from etl.errors import EtlError
from etl.ingestion.summary import Summary
from etl.ingestion.values import Source, hash_of
from tests.support.site import Site

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


PARCELS = """
name = "parcels"
mode = "append"
[[table]]
name = "lab.parcels"
[table.columns]
key = { path = "@", type = "text" }
city = "text"
weight_kg = "integer"
whole = { path = ".", type = "jsonb" }
[[table]]
name = "lab.parcel_items"
each = "items"
[table.columns]
key = { path = "^.city", type = "text" }
sku = "text"
"""

RECORDS: list[dict[str, Any]] = [
    {"city": f"Curitiba {n} é", "weight_kg": n, "items": [{"sku": f"{n}{{}}"}] * (n % 3)} for n in range(50)
]
AS_ARRAY = json.dumps(RECORDS, ensure_ascii=False)
AS_LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS)
AS_MEMBERS = json.dumps({f"P-{n}": record for n, record in enumerate(RECORDS)}, ensure_ascii=False)
PRETTY = json.dumps(RECORDS, ensure_ascii=False, indent=2)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of source: its content, the options of its load, and the records that it holds."""

    content: bytes
    records: str | None = None
    encoding: str = "auto"
    are_keyed: bool = False
    count: int = len(RECORDS)


def _zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("parcels.json", content)
    return buffer.getvalue()


KINDS = {
    "array": Kind(content=AS_ARRAY.encode()),
    "array over many lines": Kind(content=PRETTY.encode()),
    "array behind a mark": Kind(content=b"\xef\xbb\xbf" + AS_ARRAY.encode()),
    "lines": Kind(content=AS_LINES.encode()),
    "lines that end with CRLF": Kind(content=AS_LINES.replace("\n", "\r\n").encode()),
    "lines that end with CR": Kind(content=AS_LINES.replace("\n", "\r").encode()),
    "records over many lines": Kind(content="\n".join(json.dumps(each, indent=1) for each in RECORDS).encode()),
    "records side by side": Kind(content=AS_LINES.replace("\n", "").encode()),
    "records behind separators": Kind(
        content="".join(f"\x1e{line}\n" for line in AS_LINES.splitlines()).encode(),
    ),
    "gzip": Kind(content=gzip.compress(AS_ARRAY[:99].encode()) + gzip.compress(AS_ARRAY[99:].encode())),
    "bzip2": Kind(content=bz2.compress(AS_ARRAY.encode())),
    "xz": Kind(content=lzma.compress(AS_ARRAY.encode())),
    "zstd": Kind(content=zstd.compress(AS_ARRAY[:99].encode()) + zstd.compress(AS_ARRAY[99:].encode())),
    "zip": Kind(content=_zipped(AS_ARRAY.encode())),
    "utf-16": Kind(content=AS_LINES.encode("utf-16")),
    "utf-16-be without a mark": Kind(content=AS_ARRAY.encode("utf-16-be")),
    "latin-1": Kind(content=AS_LINES.encode("latin-1"), encoding="latin-1"),
    "latin-1 in gzip": Kind(content=gzip.compress(AS_LINES.encode("latin-1")), encoding="latin-1"),
    "array in a document": Kind(content=f'{{"n": {{}}, "data": {{"p": {AS_ARRAY}}}}}'.encode(), records="data.p.item"),
    "object by keys": Kind(content=AS_MEMBERS.encode(), records="*", are_keyed=True),
    "object by keys over many lines": Kind(
        content=json.dumps(json.loads(AS_MEMBERS), indent=2).encode(), records="*", are_keyed=True
    ),
    "object by keys in a document": Kind(
        content=f'{{"n": [{{}}], "data": {{"p": {AS_MEMBERS}}}, "z": 1}}'.encode(), records="data.p.*", are_keyed=True
    ),
    "objects by keys in an array": Kind(
        content=f'[{{"p": {AS_MEMBERS}}}, {{"p": {{}}}}, {{"p": {{}}, "q": "{{"}}]'.encode(),
        records="item.p.*",
        are_keyed=True,
    ),
    "a single object": Kind(content=json.dumps(RECORDS[2], indent=2).encode(), records="", count=1),
    "a single object in a document": Kind(
        content=json.dumps({"a": {"x": {}}, "data": {"p": RECORDS[2]}, "z": [1]}).encode(), records="data.p", count=1
    ),
}


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site that has a table for parcels."""
    site.define(PARCELS)
    return site


def _load(site: Site, kind: Kind, **settings: Any) -> tuple[Summary, EtlError | None]:
    """Load a source of a kind."""
    path = site.folder / "source"
    path.write_bytes(kind.content)
    source = Source(name="source", path=str(path), encoding=kind.encoding)
    return site.bring(source, "parcels", **{"records": kind.records, "batch_rows": 7} | settings)


def _rows(site: Site) -> list[tuple[Any, ...]]:
    """Return the parcels in the order of the source."""
    return site.ask("select key, city, weight_kg, whole from lab.parcels order by etl_batch, etl_place")


def test_each_kind_of_source_is_loaded_and_known_again(site: Site) -> None:
    """All records of each kind become rows in the order of the source, with their keys; a second load adds none."""
    for name, kind in KINDS.items():
        summary, error = _load(site, kind)
        assert (name, summary.status, error) == (name, "loaded", None)
        chosen = RECORDS if kind.count > 1 else RECORDS[2:3]
        expected = [
            (f"P-{n}" if kind.are_keyed else None, record["city"], record["weight_kg"], record)
            for n, record in enumerate(chosen)
        ]
        assert (name, _rows(site)) == (name, expected)
        items = site.value("select count(*) from lab.parcel_items")
        assert (name, items) == (name, sum(len(record["items"]) for record in chosen))
        again, _ = _load(site, kind, batch_rows=5)
        assert (name, again.status, again.records.skipped) == (name, "already_loaded", kind.count)
        site.forget_loads("parcels")


@pytest.mark.parametrize("name", ["object by keys in a document", "object by keys over many lines"])
def test_the_ledger_has_the_places_of_members_of_an_object(site: Site, name: str) -> None:
    """The numbers and offsets of keyed records are exact, and the bytes of a batch are those of the source."""
    kind = KINDS[name]
    _load(site, kind)
    batches = site.ask('select "offset", bytes, first_record, count_records, hash from etl.batches order by 1')
    assert [row[2] for row in batches] == list(range(1, 51, 7))
    for offset, size, first, count, digest in batches:
        data = kind.content[offset : offset + size]
        assert hash_of(data) == digest
        assert list(json.loads(b"{%b}" % data)) == [f"P-{n}" for n in range(first - 1, first - 1 + count)]


def test_a_cut_keyed_source_continues_after_the_cut(site: Site) -> None:
    """Members before the cut are loaded; the whole file loads the rest; a fault reports its place."""
    kind = KINDS["object by keys in a document"]
    at = kind.content.index(b'"P-30"')
    summary, error = _load(site, Kind(content=kind.content[: at + 20], records=kind.records))
    assert (summary.status, summary.exit_code, summary.records.loaded) == ("incomplete", 3, 30)
    assert str(error) == f"source: the source is cut off in this record, at record 31, byte {at}"
    summary, error = _load(site, kind, batch_rows=11)
    assert (summary.status, summary.records.skipped, summary.records.loaded) == ("loaded", 30, 20)
    assert [row[0] for row in _rows(site)] == [f"P-{n}" for n in range(50)]
    for spoiled, message in (
        (kind.content.replace(b'"P-30":', b'"P-30";'), "not JSON: expecting ':' delimiter"),
        (kind.content.replace(b'"P-30":', b"P:"), "not JSON: expecting property name enclosed in double quotes"),
        (kind.content.replace(b', "P-30":', b' "P-30":'), "expected , or } after a record, got something else"),
        (kind.content[: at - 2], "the object is cut off before its }"),
        (kind.content[:-3] + b"]", "not JSON around the records"),
    ):
        site.forget_loads("parcels")
        summary, error = _load(site, Kind(content=spoiled, records=kind.records))
        assert (summary.exit_code, summary.records.loaded) == (3, 50 if spoiled.endswith(b"]") else 30)
        assert message in str(error)


def test_a_rejected_member_is_kept_and_replayed_with_its_key(site: Site) -> None:
    """A rejected keyed record is stored as an object with its key; after its correction it is loaded with both."""
    bad = {
        "ok": {"city": "A", "weight_kg": 1},
        "S\\1 \u00e9": {"city": "B", "weight_kg": "heavy"},
        "n": 7,
        "m": {"weight_kg": 3},
    }
    kind = Kind(content=json.dumps({"p": bad}, indent=1).encode(), records="p.*")
    summary, _ = _load(site, kind)
    assert (summary.status, summary.records.loaded, summary.records.rejected) == ("loaded_with_rejects", 2, 2)
    [failure] = site.failures.waiting()
    details = site.failures.details(failure)
    assert details["keyed"] is True
    assert [kind.content[each["offset"] :][:3] for each in details["records"]] == [b'"S\\', b'"n"']
    lines = site.failures.path(failure).read_bytes().splitlines()
    assert [json.loads(line) for line in lines] == [{name: bad[name]} for name in list(bad)[1:3]]
    site.failures.edit(failure, ('"heavy"', "2"))
    [done] = site.run("failed", "replay", failure, "--json").lines
    assert (done["loaded"], done["rejected"]) == (1, 1)
    [again] = done["stored"]
    assert json.loads(site.failures.path(again).read_bytes()) == {"n": 7}
    assert site.failures.details(again)["keyed"] is True
    assert [(row[0], row[2]) for row in _rows(site)] == [("ok", 1), ("S\\1 \u00e9", 2), ("m", 3)]


@pytest.mark.slow
def test_two_processes_load_a_keyed_source(site: Site) -> None:
    """The pieces of a keyed object are sent to workers like those of an array."""
    summary, error = _load(site, KINDS["object by keys in a document"], workers=2)
    assert (summary.status, error) == ("loaded", None)
    assert [row[0] for row in _rows(site)] == [f"P-{n}" for n in range(50)]


@pytest.mark.parametrize(
    ("content", "records", "message", "hint"),
    [
        ('{"p": [{}]}', "p", "no object at the records path p", "arrays are at: p.item (--records)"),
        ('{"p": {}}', "p.item", "no array at the records path p.item", "objects are at: p.* (--records)"),
        ("[{}]", "", "no object at the records path ''", "arrays are at: item (--records)"),
    ],
)
def test_a_path_to_another_kind_is_reported(site: Site, content: str, records: str, message: str, hint: str) -> None:
    """If a path leads to an object instead of an array, or the reverse, the error names the right path."""
    summary, error = _load(site, Kind(content=content.encode(), records=records))
    assert (summary.exit_code, str(error).partition(",")[0]) == (3, f"source: {message}")
    assert error is not None
    assert error.hint == hint
