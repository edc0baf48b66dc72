"""The scan of brackets: it agrees with the decoder of Python, and its work grows as the bytes do."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import SourceError
from etl.ingestion.constants import READ_BYTES
from etl.ingestion.framing import nesting
from etl.ingestion.framing.nesting import ArrayScan, BracketScan, is_nested_deeper
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.settings import Format
from tests.support.streams import Bytes

VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab"\\[]{}\né'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='x"\\[{'), inner),
    max_leaves=40,
)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


@given(VALUES.filter(lambda value: isinstance(value, dict | list)), st.integers(1, 7), st.booleans(), st.data())
def test_the_scan_agrees_with_the_decoder(value: Any, size: int, is_ascii: bool, data: st.DataObject) -> None:
    """The end and the depth of a value are those of its structure, however its bytes are divided."""
    text = json.dumps(value, ensure_ascii=is_ascii).encode()
    after = data.draw(st.sampled_from([b"", b",", b'{"a": []}', b"]]}"]))
    depth = _depth(value)
    scan = BracketScan(0)
    whole = text + after
    for begin in range(0, len(whole), size):
        end = scan.end(whole[begin : begin + size])
        if end is not None:
            assert begin + end == len(text)
            break
    assert depth <= scan.deepest
    assert not is_nested_deeper(text, depth)
    assert is_nested_deeper(text, depth - 1)


@pytest.mark.parametrize("slice_bytes", [1, 2, 3, 5, 64])
def test_slices_of_any_size_give_the_same_end(monkeypatch: pytest.MonkeyPatch, slice_bytes: int) -> None:
    """Where a slice ends, within a string, an escape or a run of brackets, does not matter."""
    monkeypatch.setattr(nesting, "_SLICE_BYTES", slice_bytes)
    chance = random.Random(slice_bytes)
    for _ in range(300):
        tokens = ['"a\\\\"', '"\\""', '"[{"', "[", "{", "1,", '"\\\\\\""']
        text = "[" + "".join(chance.choices(tokens, k=30))
        text += "".join({"[": "]", "{": "}"}[bracket] for bracket in reversed(_open_brackets(text)))
        assert BracketScan(200).end(text.encode() + b"]}") == len(text)


def _open_brackets(text: str) -> list[str]:
    """Return the brackets that are open at the end of a text."""
    opened, is_string, is_escaped = [], False, False
    for character in text:
        if is_escaped:
            is_escaped = False
        elif is_string:
            is_escaped = character == "\\"
            is_string = character != '"'
        elif character == '"':
            is_string = True
        elif character in "[{":
            opened.append(character)
    return opened


ONE = {
    "one string": lambda size: b'{"a": "%s"}' % (b"x" * size),
    "brackets in a string": lambda size: b'{"a": "%s"}' % (b"[{]}" * (size // 4)),
    "escapes": lambda size: b'{"a": "%s"}' % (rb"\"" * (size // 2)),
    "members": lambda size: b"{%s}" % b",".join(b'"m%07d": 1' % number for number in range(size // 13)),
    "children": lambda size: b'{"items": [%s]}' % b",".join([b'{"sku": "A", "n": [1]}'] * (size // 23)),
    "arrays": lambda size: b'{"a": [%s]}' % b",".join([b"[]"] * (size // 3)),
    "deep": lambda size: b'{"a": [%s]}' % b",".join([b"[" * 150 + b"]" * 150] * (size // 301)),
}
"""A record of about so many bytes."""

SOURCES: dict[str, tuple[Format, str, Callable[[bytes], bytes]]] = {
    "array": ("auto", "item", lambda record: b'[{"a": 1}, %s, {"a": 2}]' % record),
    "lines": ("auto", "item", lambda record: b'{"a": 1}\n%s\n{"a": 2}\n' % record),
    "large first": ("auto", "item", lambda record: b'%s {"a": 1}\n{"a": 2}\n' % record),
    "values": ("auto", "item", lambda record: b'{"a": 1} %s {"a": 2}' % record),
    "members": ("document", "x.*", lambda record: b'{"x": {"a": {"a": 1}, "b": %s, "c": {"a": 2}}}' % record),
}

QUICK = {
    *(("lines", shape) for shape in ONE if shape not in {"arrays", "deep"}),
    *((source, "children") for source in SOURCES),
}
"""Each source and each shape that is quick to build comes once without the slow tests."""


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        pytest.param(source, shape, marks=[pytest.mark.slow] * ((source, shape) not in QUICK))
        for source in SOURCES
        for shape in ONE
    ],
)
def test_a_large_record_is_scanned_once(monkeypatch: pytest.MonkeyPatch, shape: str, source: str) -> None:
    """Twice the record is twice the work: neither doubling the window nor the depth scans its bytes again."""
    work = []
    scan_slice = BracketScan._slice_end

    def counted(scan: BracketScan, piece: bytes) -> int | None:
        work.append(len(piece))
        return scan_slice(scan, piece)

    monkeypatch.setattr(BracketScan, "_slice_end", counted)
    path, records, build = SOURCES[source][1], 3, SOURCES[source][2]
    for size in (2 * READ_BYTES, 4 * READ_BYTES):
        record = ONE[shape](size)
        options = CutOptions(format=SOURCES[source][0], records_path=path, batch_rows=100)
        work.clear()
        pieces = list(cut(Bytes(build(record)), options))
        assert sum(piece.count for piece in pieces) == records
        assert record in b"".join(piece.data for piece in pieces)
        # Once for its end and once for its depth; a first record also to recognise the format.
        assert sum(work) <= 4 * len(record) + READ_BYTES


@pytest.mark.parametrize("source", ["array", "values", "members"])
def test_a_fault_in_a_large_record_keeps_its_place(source: str) -> None:
    """A large record that is no JSON is reported at the byte of the fault, a cut one at its beginning."""
    record = b'{"a": [%s, nope], "b": 1}' % b",".join([b'{"n": 1}'] * (READ_BYTES // 4))
    format_, path, build = SOURCES[source]
    options = CutOptions(format=format_, records_path=path, batch_rows=100)
    whole = build(record)
    begin = whole.index(b'"b"') if source == "members" else whole.index(record)
    for given_bytes, reason in (
        (whole, f"not JSON: expecting value, at record 2, byte {whole.index(b'nope')}"),
        (whole[: whole.index(b"nope")], f"cut off in this record, at record 2, byte {begin}"),
    ):
        with pytest.raises(SourceError, match=reason):
            list(cut(Bytes(given_bytes), options))


def test_a_fault_comes_before_the_size_of_its_record() -> None:
    """A value that is no JSON is reported as such, although it is also larger than a record may be."""
    record = b'{"a": [%s, nope, %s' % (b",".join([b"1"] * READ_BYTES), b",".join([b"1"] * (2 * READ_BYTES)))
    options = CutOptions(format="auto", records_path="item", batch_rows=9, max_record_bytes=3 * READ_BYTES)
    with pytest.raises(SourceError, match="not JSON: expecting value, at record 1"):
        list(cut(Bytes(b"[" + record), options))


@given(st.lists(st.sampled_from(['{"a":1}', "[]", '{"a":[{"]":"}"}]}', '"]"', "1"]), max_size=5), st.integers(1, 5))
def test_the_end_of_an_array_is_found_in_parts(elements: list[str], size: int) -> None:
    """The bracket that ends an array is found, however the array comes in parts and is dropped after the scan."""
    text = (",".join(elements) + "] [1]").encode()
    scan = ArrayScan(0)
    end = None
    offset = 0
    while end is None:
        end = scan.end(text[offset : offset + size], offset, len(text))
        offset = min(offset + size, len(text))
    assert end == len(text) - len("] [1]")
