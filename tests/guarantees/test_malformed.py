"""Malformed sources: each ends as documented, without a traceback, and its records are all accounted for.

No record before the fault is lost, and no value is invented. The expected values come from Python's own decoder.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any

import pytest

from etl.errors import EtlError, SourceError
from etl.ingestion.summary import Summary
from tests.support.site import Site

Row = tuple[str, Decimal | None, Any]

PARCELS = """
name = "parcels"
mode = "append"
[[table]]
name = "lab.parcels"
[table.columns]
parcel_id = { type = "text", required = true }
weight_kg = "numeric"
tags = "jsonb"
"""

RECORDS = [
    '{"parcel_id":"A\\u00e9","weight_kg":1.50}',
    '{"parcel_id": "B\\"Ł" , "tags":[-0.0,{"x":"\\ud83d\\ude00\\n"}],"o":null}',
    '{"parcel_id":44,"weight_kg":"-2e1"}',
]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a load: the rows in their order, and the rejected records with their text."""

    summary: Summary
    error: EtlError | None
    loaded: list[Row]
    rejected: list[dict[str, Any]]

    @property
    def code(self) -> int:
        """The exit code."""
        return self.summary.exit_code


@dataclass(kw_only=True)
class Judge:
    """Loads malformed sources in this process, and checks the results. `cases` counts them by exit code."""

    site: Site
    cases: Counter[int] = field(default_factory=Counter)

    def bring(self, content: bytes, **settings: Any) -> tuple[Summary, EtlError | None]:
        """Load a source."""
        path = self.site.folder / "source"
        path.write_bytes(content)
        summary, error = self.site.bring(path, "parcels", **{"batch_rows": 2} | settings)
        self.cases[summary.exit_code] += 1
        return summary, error

    def load(self, content: bytes, **settings: Any) -> Outcome:
        """Load a source; assert that its end is a documented one and that all its records are accounted for."""
        summary, error = self.bring(content, **settings)
        outcome = Outcome(
            summary=summary,
            error=error,
            loaded=[
                (name, weight, _decoded(tags) if tags else None)
                for name, weight, tags in self.site.ask(
                    "select parcel_id, weight_kg, tags::text from lab.parcels order by etl_batch, etl_place"
                )
            ],
            rejected=self.site.failures.records(summary.run),
        )
        self._check(outcome, content)
        return outcome

    def clear(self) -> None:
        """Remove all loaded records."""
        self.site.forget_loads("parcels")

    @staticmethod
    def _check(outcome: Outcome, content: bytes) -> None:
        counts, code = outcome.summary.records, outcome.summary.exit_code
        assert (counts.failed, counts.skipped, counts.withheld) == (0, 0, 0)
        assert (counts.loaded, counts.rejected) == (len(outcome.loaded), len(outcome.rejected))
        assert code in {0, 1, 3}
        assert (code == 3) == isinstance(outcome.error, SourceError)
        if code < 3:
            assert (outcome.error, code) == (None, 1 if counts.rejected else 0)
        for record in outcome.rejected:
            original = content[record["offset"] : record["offset"] + len(record["text"])]
            assert original.replace(b"\n", b" ").replace(b"\r", b" ") == record["text"]
            assert record["sqlstate"]
            assert record["reason"]


@pytest.fixture
def judge(site: Site) -> Iterator[Judge]:
    """Give a judge of parcels; at the end it prints the number of cases for each exit code."""
    site.define(PARCELS)
    judge = Judge(site=site)
    yield judge
    print(f"\n{judge.cases.total()} malformed sources by exit code: {dict(sorted(judge.cases.items()))}")  # noqa: T201


def _refuse(name: str) -> None:
    raise ValueError(name)


def _decoded(text: str) -> Any:
    """Decode JSON as RFC 8259 defines it, and keep every digit of its numbers."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse)


def _has_unstorable(value: Any) -> bool:
    """Return whether a value has a NUL or a lone surrogate, which PostgreSQL cannot store."""
    if isinstance(value, str):
        return any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return any(_has_unstorable(name) or _has_unstorable(member) for name, member in value.items())
    return isinstance(value, list) and any(_has_unstorable(element) for element in value)


def _row(text: bytes) -> Row | None:
    """Return the row of a record, or None when the record must be rejected."""
    try:
        record = _decoded(text.decode())
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    name, weight, tags = (record.get(member) for member in ("parcel_id", "weight_kg", "tags"))
    if isinstance(name, bool):
        name = "true" if name else "false"
    elif isinstance(name, Decimal):
        name = f"{name:f}"
    if not isinstance(name, str) or _has_unstorable(name) or _has_unstorable(tags):
        return None
    if isinstance(weight, str):
        try:
            weight = Decimal(weight.strip(" \t\n\r\v\f")) if "_" not in weight else None
        except InvalidOperation:
            return None
        if weight is None or not weight.is_finite():
            return None
    return (name, weight, tags) if weight is None or isinstance(weight, Decimal) else None


def _values(line: bytes) -> list[bytes]:
    """Return the text of each value of a line; text that is not JSON is one value, up to the end of the line."""
    text = line.decode("latin-1").rstrip(" \t\r")
    found = []
    at = 0
    while at < len(text):
        begin = at + len(text[at:]) - len(text[at:].lstrip(" \t\r"))
        try:
            _, at = json.JSONDecoder(parse_constant=_refuse).raw_decode(text, begin)
        except ValueError:
            at = len(text)
        found.append(text[begin:at].encode("latin-1"))
    return found


def _elements(content: bytes) -> list[bytes] | None:
    """Return the text of each element of an array, or None when the array or an element is not JSON.

    The text is read as latin-1, because a byte that is not UTF-8 damages only its own record.
    """
    text = content.decode("latin-1")
    decoder = json.JSONDecoder(parse_constant=_refuse)
    blank = " \t\n\r"
    at = len(text) - len(text.lstrip(blank))
    if text[at : at + 1] != "[":
        return None
    found: list[bytes] = []
    at += 1
    while True:
        at += len(text[at:]) - len(text[at:].lstrip(blank))
        if text[at : at + 1] == "]" and not found:
            break
        try:
            _, end = decoder.raw_decode(text, at)
        except ValueError:
            return None
        found.append(content[at:end])
        at = end + len(text[end:]) - len(text[end:].lstrip(blank))
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            return None
        at += 1
    # ijson reads the text around the records, and it takes these two for white space as well.
    return None if text[at + 1 :].strip(blank + "\v\f") else found


ROWS = [_row(record.encode()) for record in RECORDS]


def _array(records: Sequence[str] = RECORDS) -> tuple[bytes, list[int]]:
    """Return an array, and the offset of the end of each record."""
    text, ends = b"[", []
    for number, record in enumerate(records):
        text += (b",\n  " if number else b"\n  ") + record.encode()
        ends.append(len(text))
    return text + b"\n]\n", ends


def _lines(records: Sequence[str] = RECORDS) -> tuple[bytes, list[int]]:
    """Return lines, and the offset of the end of each record."""
    text, ends = b"", []
    for record in records:
        text += record.encode()
        ends.append(len(text))
        text += b"\n"
    return text, ends


SHAPES = {"array": _array, "lines": _lines}


def test_the_judge_knows_the_records() -> None:
    """Python's decoder gives the rows that the tests expect, and no record of the sample is bad."""
    first, second, third = ROWS
    assert first == ("Aé", Decimal("1.50"), None)
    assert second == ('B"Ł', None, [Decimal(0), {"x": "\U0001f600\n"}])
    assert third == ("44", Decimal(-20), None)
    assert _elements(_array()[0]) == [record.encode() for record in RECORDS]


@pytest.mark.parametrize(
    ("shape", "step"),
    [("array", 9), pytest.param("array", 1, marks=pytest.mark.slow), pytest.param("lines", 1, marks=pytest.mark.slow)],
)
def test_a_source_cut_at_any_byte(judge: Judge, shape: str, step: int) -> None:
    """When a source is cut off, the complete records before the cut are loaded; only a complete source is a success."""
    content, ends = SHAPES[shape]()
    near_ends = {size + more for size in (*ends, len(content)) for more in (-1, 0, 1) if size + more <= len(content)}
    for size in sorted({*range(0, len(content), step), *near_ends}, reverse=True):
        outcome = judge.load(content[:size])
        whole = sum(end <= size for end in ends)
        assert outcome.loaded == ROWS[:whole], size
        assert outcome.rejected == []
        is_whole = size >= len(content) - 1 if shape == "array" else size in ends or size - 1 in ends
        assert outcome.code == (0 if is_whole else 3), size
        judge.clear()


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["array", "lines"])
def test_a_source_that_grows_byte_by_byte(judge: Judge, shape: str) -> None:
    """When a source is loaded again after each added byte, its complete records are loaded, and none twice."""
    content, ends = SHAPES[shape]()
    code = loaded = 0
    for size in range(1, len(content) + 1):
        summary, _ = judge.bring(content[:size])
        loaded += summary.records.loaded
        assert summary.records.adds_up()
        assert loaded == sum(end <= size for end in ends), size
        code = summary.exit_code
        is_whole = size >= len(content) - 1 if shape == "array" else size in ends or size - 1 in ends
        assert code == (0 if is_whole else 3), size
    rows = judge.site.ask("select parcel_id from lab.parcels order by etl_batch, etl_place")
    assert [row[0] for row in rows] == [row[0] for row in ROWS if row]
    assert code == 0


def _flips(content: bytes, masks: Callable[[int], Sequence[int]]) -> Iterator[tuple[int, bytes]]:
    for place, byte in enumerate(content):
        for mask in masks(place):
            yield place, content[:place] + bytes([byte ^ mask]) + content[place + 1 :]


def _check_flipped_array(judge: Judge, place: int, content: bytes, ends: Sequence[int]) -> None:
    outcome = judge.load(content)
    elements = _elements(content)
    before = sum(end <= place for end in ends)
    assert outcome.loaded[:before] == ROWS[:before], content
    if place == 0:  # No array any more: the first byte decides the format.
        return
    if elements is None:
        assert outcome.code == 3, content
        return
    rows = [_row(element) for element in elements]
    assert outcome.loaded == [row for row in rows if row is not None], content
    assert [record["text"] for record in outcome.rejected] == [
        element for element, row in zip(elements, rows, strict=True) if row is None
    ], content
    assert outcome.code == (1 if None in rows else 0), content


def _check_flipped_lines(judge: Judge, place: int, content: bytes, ends: Sequence[int]) -> None:
    outcome = judge.load(content)
    before = sum(end < place for end in ends)
    assert outcome.loaded[:before] == ROWS[:before], content
    if place < ends[0] + 1 or place in ends:  # The first line decides the format.
        return
    values = [value for line in content.split(b"\n") for value in _values(line)]
    rows = [_row(value) for value in values]
    assert outcome.loaded == [row for row in rows if row is not None], content
    assert [record["text"] for record in outcome.rejected] == [
        value.replace(b"\r", b" ") for value, row in zip(values, rows, strict=True) if row is None
    ], content
    assert outcome.code == (1 if None in rows else 0), content


CHECKS = {"array": _check_flipped_array, "lines": _check_flipped_lines}


@pytest.mark.parametrize("shape", ["array", pytest.param("lines", marks=pytest.mark.slow)])
def test_bytes_flipped(judge: Judge, shape: str) -> None:
    """When a byte is changed, records that are still JSON are loaded unchanged and the others are reported.

    Every third byte here; the slow test takes each bit.
    """
    dice = random.Random(3)
    content, ends = SHAPES[shape]()
    for place, flipped in islice(_flips(content, lambda _: [1 << dice.randrange(8)]), 0, None, 3):
        CHECKS[shape](judge, place, flipped, ends)
        judge.clear()


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_each_bit_flipped(judge: Judge, shape: str) -> None:
    """The same is true of each flipped bit, and of each byte replaced by a quote, a brace, a NUL or a newline."""
    content, ends = SHAPES[shape]()
    masks = [1 << bit for bit in range(8)]
    for place, flipped in _flips(
        content, lambda place: [*masks, *(content[place] ^ byte for byte in b'"{}[],:\\\0\n')]
    ):
        if flipped.endswith(b'"'):
            continue  # ijson does not report a text that begins after the end of the array and is not closed.
        CHECKS[shape](judge, place, flipped, ends)
        judge.clear()


NESTED = b"[" * 100_000 + b"]" * 100_000
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
GOOD = b'{"parcel_id": "good"}'
LAST = b'{"parcel_id": "last"}'

# Source: exit code, loaded parcels, and number of rejected records.
Expected = tuple[int, list[str], int]

AROUND: dict[str, tuple[bytes, Expected]] = {
    "nothing": (b"", (3, [], 0)),
    "white space": (b" \t\r\n" * 1000, (3, [], 0)),
    "a byte-order mark": (b"\xef\xbb\xbf", (3, [], 0)),
    "a byte-order mark before an array": (b"\xef\xbb\xbf[" + GOOD + b"]", (0, ["good"], 0)),
    "a byte-order mark before lines": (b"\xef\xbb\xbf" + GOOD + b"\n" + LAST, (0, ["good", "last"], 0)),
    "two byte-order marks": (b"\xef\xbb\xbf\xef\xbb\xbf[" + GOOD + b"]", (3, [], 0)),
    "a NUL before": (b"\0[" + GOOD + b"]", (3, [], 0)),
    "a NUL after": (b"[" + GOOD + b"]\0", (3, ["good"], 0)),
    "NULs for a hole of a disk": (b"[" + GOOD + b"," + b"\0" * 5000, (3, ["good"], 0)),
    "white space before and after": (b"\n" * 300_000 + b"[" + GOOD + b"]" + b" " * 300_000, (0, ["good"], 0)),
    "no-break spaces": ("[\u00a0{}]".encode(), (3, [], 0)),
    "a page": (b"<!doctype html><title>502 Bad Gateway</title>", (3, [], 0)),
    "a text": (b'"parcels"', (3, [], 0)),
    "a number": (b"5", (3, [], 0)),
    "null": (b"null", (3, [], 0)),
    "CSV": (b"parcel_id,weight_kg\nA,5\n", (3, [], 0)),
    "an empty array": (b"[]", (0, [], 0)),
    "an empty object": (b"{}", (1, [], 1)),
    "an array in an array": (b"[[" + GOOD + b"]]", (1, [], 1)),
    "empty arrays": (b"[[],[]]", (1, [], 2)),
    "a bracket": (b"[", (3, [], 0)),
    "a brace": (b"{", (3, [], 0)),
    "brackets": (b"[" * 500, (3, [], 0)),
    "100,000 brackets": (b"[" * 100_000, (3, [], 0)),
    "100,000 braces": (b'{"a":' * 100_000, (3, [], 0)),
    "the end first": (b"][", (3, [], 0)),
    "a comma": (b"[,]", (3, [], 0)),
    "a comma before": (b"[," + GOOD + b"]", (3, [], 0)),
    "a comma after": (b"[" + GOOD + b",]", (3, ["good"], 0)),
    "two commas": (b"[" + GOOD + b",," + LAST + b"]", (3, ["good"], 0)),
    "no comma": (b"[" + GOOD + b" " + LAST + b"]", (3, ["good"], 0)),
    "no end": (b"[" + GOOD, (3, ["good"], 0)),
    "no end after a comma": (b"[" + GOOD + b",", (3, ["good"], 0)),
    "a brace for a bracket": (b"[" + GOOD + b"}", (3, ["good"], 0)),
    "garbage after": (b"[" + GOOD + b"] garbage", (3, ["good"], 0)),
    "a bracket after": (b"[" + GOOD + b"]]", (3, ["good"], 0)),
    "two arrays": (b"[" + GOOD + b"][" + LAST + b"]", (0, ["good", "last"], 0)),
    "two arrays in lines": (b"[" + GOOD + b"]\n[" + LAST + b"]\n", (0, ["good", "last"], 0)),
    "an object after": (b"[" + GOOD + b"]" + LAST, (3, ["good"], 0)),
    "a comment before": (b"// parcels\n[" + GOOD + b"]", (3, [], 0)),
    "a comment within": (b"[" + GOOD + b", /* and */ " + LAST + b"]", (3, ["good"], 0)),
    "a comment after": (b"[" + GOOD + b"] // all", (3, ["good"], 0)),
    "semicolons": (b"[" + GOOD + b"; " + LAST + b"]", (3, ["good"], 0)),
    "objects on one line": (GOOD + LAST, (0, ["good", "last"], 0)),
    "objects with commas between": (GOOD + b"," + LAST, (3, ["good"], 0)),
    "lines with commas between": (GOOD + b",\n" + LAST, (3, ["good"], 0)),
    "objects over lines": (b'{\n"parcel_id": "good"\n}\n{\n"parcel_id":\n"last"}', (0, ["good", "last"], 0)),
    "old line ends": (GOOD + b"\r" + LAST + b"\r", (0, ["good", "last"], 0)),
    "blank lines": (b"\n\n" + GOOD + b"\n \n\r\n" + LAST + b"\n\n", (0, ["good", "last"], 0)),
}

# A record between two good ones: whether an array can continue after it, and the id of its parcel or None.
BETWEEN: dict[str, tuple[bytes, bool, str | None]] = {
    "NaN": (b'{"parcel_id": "x", "weight_kg": NaN}', False, None),
    "NaN where nobody looks": (b'{"parcel_id": "x", "other": NaN}', False, None),
    "Infinity": (b'{"parcel_id": "x", "weight_kg": Infinity}', False, None),
    "-Infinity": (b'{"parcel_id": "x", "weight_kg": -Infinity}', False, None),
    "NaN as a text": (b'{"parcel_id": "x", "weight_kg": "NaN"}', True, None),
    "a member twice": (b'{"parcel_id": "w", "parcel_id": "x"}', True, "x"),
    "a member twice, last null": (b'{"parcel_id": "w", "parcel_id": null}', True, None),
    "an object and a text of one name": (b'{"parcel_id": {"a": 1}, "parcel_id": "x"}', True, "x"),
    "a comment": (b'{"parcel_id": "x" /* id */}', False, None),
    "a comment to the end of its line": (b'{"parcel_id": "x"} // id', False, "x"),
    "single quotes": (b"{'parcel_id': 'x'}", False, None),
    "no quotes": (b'{parcel_id: "x"}', False, None),
    "typographic quotes": ("{“parcel_id”: “x”}".encode(), False, None),
    "a comma after": (b'{"parcel_id": "x",}', False, None),
    "a colon too few": (b'{"parcel_id" "x"}', False, None),
    "an equals sign": (b'{"parcel_id"="x"}', False, None),
    "no value": (b'{"parcel_id": }', False, None),
    "no name": (b'{: "x"}', False, None),
    "True": (b'{"parcel_id": "x", "tags": True}', False, None),
    "None": (b'{"parcel_id": None}', False, None),
    "undefined": (b'{"parcel_id": undefined}', False, None),
    "nul": (b'{"parcel_id": "x", "tags": nul}', False, None),
    "a plus": (b'{"parcel_id": "x", "weight_kg": +1}', False, None),
    "a leading zero": (b'{"parcel_id": "x", "weight_kg": 01}', False, None),
    "a leading point": (b'{"parcel_id": "x", "weight_kg": .5}', False, None),
    "a trailing point": (b'{"parcel_id": "x", "weight_kg": 1.}', False, None),
    "a minus alone": (b'{"parcel_id": "x", "weight_kg": -}', False, None),
    "no exponent": (b'{"parcel_id": "x", "weight_kg": 1e}', False, None),
    "a hexadecimal number": (b'{"parcel_id": "x", "weight_kg": 0x1F}', False, None),
    "an underscore": (b'{"parcel_id": "x", "weight_kg": 1_000}', False, None),
    "minus zero": (b'{"parcel_id": "x", "weight_kg": -0}', True, "x"),
    "5,000 digits": (b'{"parcel_id": "x", "weight_kg": ' + b"7" * 5000 + b"}", True, "x"),
    "5,000 digits of a text": (b'{"parcel_id": "x", "weight_kg": "' + b"7" * 5000 + b'"}', True, "x"),
    "5,000 digits for a name": (b'{"parcel_id": ' + b"7" * 5000 + b"}", True, "7" * 5000),
    "5,000 digits where nobody looks": (b'{"parcel_id": "x", "o": -' + b"7" * 5000 + b"}", True, "x"),
    "5,000 digits after the point": (b'{"parcel_id": "x", "weight_kg": 0.' + b"7" * 5000 + b"}", True, "x"),
    "200,000 digits": (b'{"parcel_id": "x", "weight_kg": ' + b"7" * 200_000 + b"}", True, None),
    "a number out of all range": (b'{"parcel_id": "x", "weight_kg": 1e999999999999999999999}', True, None),
    "a number near nothing": (b'{"parcel_id": "x", "weight_kg": 1e-999999999999999999999}', True, None),
    "a name out of all range": (b'{"parcel_id": 1e999999999}', True, None),
    "a NUL in a text": (b'{"parcel_id": "a\\u0000"}', True, None),
    "a NUL in a tag": (b'{"parcel_id": "x", "tags": ["\\u0000"]}', True, None),
    "a NUL in the name of a tag": (b'{"parcel_id": "x", "tags": {"\\u0000": 1}}', True, None),
    "a NUL where nobody looks": (b'{"parcel_id": "x", "other": "\\u0000"}', True, "x"),
    "a backslash before u0000": (b'{"parcel_id": "x\\\\u0000", "tags": "\\\\u0000"}', True, "x\\u0000"),
    "a byte NUL": (b'{"parcel_id": "a\0"}', False, None),
    "a byte NUL between": (b'{"parcel_id": \0"x"}', False, None),
    "half a pair": (b'{"parcel_id": "\\ud800"}', True, None),
    "the other half": (b'{"parcel_id": "\\udfff"}', True, None),
    "a pair the wrong way round": (b'{"parcel_id": "\\ude00\\ud83d"}', True, None),
    "half a pair in a tag": (b'{"parcel_id": "x", "tags": {"a": "\\ud83d "}}', True, None),
    "half a pair where nobody looks": (b'{"parcel_id": "x", "other": "\\ud83d"}', True, "x"),
    "half a pair before a pair": (b'{"parcel_id": "\\ud83d\\ud83d\\ude00"}', True, None),
    "an escaped pair": (b'{"parcel_id": "\\uD83D\\uDE00"}', True, "\U0001f600"),
    "an escape that is none": (b'{"parcel_id": "\\x41"}', False, None),
    "an escape that is cut": (b'{"parcel_id": "\\u12"}', False, None),
    "a tab": (b'{"parcel_id": "a\tb"}', False, None),
    "a control character": (b'{"parcel_id": "a\x01b"}', False, None),
    "a DEL": (b'{"parcel_id": "a\x7fb"}', True, "a\x7fb"),
    "line ends of Unicode": ('{"parcel_id": "a\u2028\u2029\u0085b"}'.encode(), True, "a\u2028\u2029\x85b"),
    "no character": ('{"parcel_id": "\ufffe\uffff\ufeff"}'.encode(), True, "\ufffe\uffff\ufeff"),
    "a byte that is no UTF-8": (b'{"parcel_id": "\xff"}', True, None),
    "latin-1": ('{"parcel_id": "Köln"}'.encode("latin-1"), True, None),
    "a character cut in two": (b'{"parcel_id": "\xc3"}', True, None),
    "an overlong slash": (b'{"parcel_id": "\xc0\xaf"}', True, None),
    "half a pair in UTF-8": (b'{"parcel_id": "\xed\xa0\x80"}', True, None),
    "beyond Unicode": (b'{"parcel_id": "\xf4\x90\x80\x80"}', True, None),
    "no UTF-8 where nobody looks": (b'{"parcel_id": "x", "other": "\xff"}', True, None),
    "no UTF-8 in a name": (b'{"parcel_id": "x", "\xff": 1}', True, None),
    "no UTF-8 between": (b'{"parcel_id": \xff "x"}', False, None),
    "9,000 arrays where nobody looks": (
        b'{"parcel_id": "x", "other": ' + b"[" * 9_000 + b"]" * 9_000 + b"}",
        True,
        "x",
    ),
    "100,000 arrays": (b'{"parcel_id": "x", "tags": ' + NESTED + b"}", True, None),
    "100,000 arrays where nobody looks": (b'{"parcel_id": "x", "other": ' + NESTED + b"}", True, None),
    "100,000 objects": (b'{"parcel_id": "x", "tags": ' + DEEP + b"}", True, None),
    "100,000 arrays and no object": (NESTED, True, None),
    "a text": (b'"parcel_id"', True, None),
    "a number": (b"17", True, None),
    "null": (b"null", True, None),
    "true": (b"true", True, None),
    "an array": (b'[{"parcel_id": "x"}]', True, None),
    "nothing in it": (b"{}", True, None),
    "a word": (b"parcel", False, None),
    "a brace": (b"{", False, None),
    "a brace too many": (b'{"parcel_id": "x"}}', False, "x"),
    "two on one line": (b'{"parcel_id": "x"} {}', False, "x"),
    "a line end in a text": (b'{"parcel_id": "a\nb"}', False, None),
}


def _names(outcome: Outcome) -> list[str]:
    return [name for name, _, _ in outcome.loaded]


def test_faults_around_the_records(judge: Judge) -> None:
    """A source with a fault around its records ends with exit code 3, and the complete records before it are loaded.

    Arrays that follow one another are no fault.
    """
    for name, (content, expected) in AROUND.items():
        outcome = judge.load(content)
        assert (outcome.code, _names(outcome), len(outcome.rejected)) == expected, name
        if outcome.error:
            assert str(outcome.error).startswith("source: "), name
            assert len(str(outcome.error)) < 200
        judge.clear()


@pytest.mark.parametrize("batch_rows", [pytest.param(each, marks=pytest.mark.slow) for each in (1, 5000)])
def test_a_bad_record_of_an_array(judge: Judge, batch_rows: int) -> None:
    """In an array a bad record is rejected alone; text that is not JSON ends the source after the records before."""
    for name, (text, continues, parcel) in BETWEEN.items():
        outcome = judge.load(b"[" + GOOD + b",\n" + text + b",\n" + LAST + b"]", batch_rows=batch_rows)
        middle = [parcel] if parcel else []
        if continues:
            assert (outcome.code, _names(outcome)) == (0 if parcel else 1, ["good", *middle, "last"]), name
            assert len(outcome.rejected) == (0 if parcel else 1), name
        else:
            assert (outcome.code, _names(outcome), outcome.rejected) == (3, ["good", *middle], []), name
        judge.clear()


@pytest.mark.slow
@pytest.mark.parametrize("batch_rows", [1, 5000])
def test_a_bad_line(judge: Judge, batch_rows: int) -> None:
    """A line that is not a record is rejected with its text, and the lines around it are loaded."""
    for name, (text, continues, parcel) in BETWEEN.items():
        outcome = judge.load(GOOD + b"\n" + text + b"\n" + LAST + b"\n", batch_rows=batch_rows)
        middle = [parcel] if parcel else []
        assert _names(outcome) == ["good", *middle, "last"], name
        bad = 2 if b"\n" in text else 0 if continues and parcel else 1
        assert (outcome.code, len(outcome.rejected)) == (1 if bad else 0, bad), name
        rejected = b" ".join(record["text"] for record in outcome.rejected)
        assert rejected == (
            b"" if not bad else text.replace(b"\n", b" ") if not parcel else text.partition(b"}")[2].strip()
        )
        judge.clear()


def test_a_decimal_keeps_its_digits_among_bad_ones(judge: Judge) -> None:
    """Numbers of thousands of digits are loaded exactly, before and after a record that is rejected."""
    digits = "7" * 5_000
    numbers = [digits, f"-{digits}", f"0.{digits}", f"{digits}.{digits}", f"1e{4_000}", f"1e-{4_000}"]
    records = [f'{{"parcel_id": "{place}", "weight_kg": {number}}}' for place, number in enumerate(numbers)]
    records.insert(3, '{"parcel_id": "x", "weight_kg": 1e200000}')
    outcome = judge.load(f"[{','.join(records)}]".encode())
    assert [weight for _, weight, _ in outcome.loaded] == [Decimal(number) for number in numbers]
    assert [record["sqlstate"] for record in outcome.rejected] == ["22003"]


@pytest.mark.parametrize("size", [1 << 20, pytest.param(50 << 20, marks=pytest.mark.slow)])
def test_a_text_of_many_megabytes(judge: Judge, size: int) -> None:
    """A text of 50 MB is loaded as a value; in a number column it is rejected alone."""
    large = b'{"parcel_id": "x", "tags": "' + b"y" * size + b'"}'
    outcome = judge.load(b"[" + GOOD + b"," + large + b"," + LAST + b"]")
    assert (outcome.code, _names(outcome)) == (0, ["good", "x", "last"])
    assert outcome.loaded[1][2] == "y" * size
    judge.clear()
    bad = large.replace(b'"tags"', b'"weight_kg"')
    outcome = judge.load(GOOD + b"\n" + bad + b"\n" + LAST + b"\n")
    assert (outcome.code, _names(outcome)) == (1, ["good", "last"])
    assert [record["text"] for record in outcome.rejected] == [bad]


def test_a_record_that_is_too_large_ends_the_source(judge: Judge) -> None:
    """A record above the size limit ends the source with exit code 3 after the records before it."""
    large = b'{"parcel_id": "' + b"y" * (1 << 20) + b'"}'
    for content in (b"[" + GOOD + b"," + large + b"]", GOOD + b"\n" + large + b"\n" + LAST):
        outcome = judge.load(content, max_record_bytes=1 << 20)
        assert (outcome.code, _names(outcome)) == (3, ["good"])
        assert "1048576 bytes" in str(outcome.error)
        judge.clear()


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["array", "lines"])
def test_bytes_thrown_away_doubled_and_swapped(judge: Judge, shape: str) -> None:
    """When a part of a source is missing, doubled or moved, the load ends as documented and reports all records."""
    dice = random.Random(9)
    content, _ = SHAPES[shape]()
    for _ in range(120):
        start, end = sorted(dice.sample(range(len(content) + 1), 2))
        part, at = content[start:end], dice.randrange(len(content))
        kind = dice.randrange(3)
        spoiled = content[:start] + content[end:] if kind == 0 else content[:at] + part + content[at:]
        spoiled = spoiled if kind < 2 else content[:start] + content[end:at] + part + content[max(at, end) :]
        outcome = judge.load(spoiled)
        elements = _elements(spoiled)
        if shape == "array" and elements is not None:
            rows = [_row(element) for element in elements]
            assert outcome.loaded == [row for row in rows if row is not None], spoiled
            assert outcome.code == (1 if None in rows else 0), spoiled
        judge.clear()


def _first(name: str) -> bytes:
    """Return a first record of its own: a source that begins as an unfinished one continues its run."""
    return b'{"parcel_id": "%b"}' % name.encode()


COMMAND_LINE = {
    "cut.json": (b"[" + _first("cut") + b', {"parcel_id": "x', (3, 1, 0)),
    "deep.json": (b"[" + _first("deep array") + b"," + DEEP + b"]", (1, 1, 1)),
    "deep.ndjson": (_first("deep lines") + b"\n" + NESTED + b"\n" + LAST, (1, 2, 1)),
    "nan.ndjson": (_first("nan") + b'\n{"parcel_id": NaN}\n' + LAST, (1, 2, 1)),
    "latin.json": ('[{"parcel_id": "Köln"}]'.encode("latin-1"), (1, 0, 1)),
    "surrogate.json": (b'[{"parcel_id": "\\ud800"},' + GOOD + b"]", (1, 1, 1)),
    "digits.json": (b'[{"parcel_id": "x", "weight_kg": ' + b"7" * 5000 + b"}]", (0, 1, 0)),
    "two.json": (b"[" + _first("two") + b"][" + LAST + b"]", (0, 2, 0)),
    "nul.json": (b"[" + _first("nul") + b"\0]", (3, 1, 0)),
}


def test_the_command_ends_as_documented(site: Site, judge: Judge) -> None:
    """`etl load` of malformed sources ends with the gravest exit code and a summary of each, without a traceback."""
    for name, (content, _) in COMMAND_LINE.items():
        (site.folder / name).write_bytes(content)
    done = site.run("load", "parcels", *COMMAND_LINE, "--json", "--max-rejected", "100%")
    assert done.returncode == 3
    assert "unexpected" not in done.stderr
    assert len(done.summaries) == len(COMMAND_LINE)
    for summary in done.summaries:
        _, (code, loaded, rejected) = COMMAND_LINE[summary["source"]]
        records = summary["records"]
        assert (summary["exit_code"], records["loaded"], records["rejected"]) == (code, loaded, rejected), summary
        judge.cases[code] += 1
