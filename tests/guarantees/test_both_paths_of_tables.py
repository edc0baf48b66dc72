"""The two paths divide records among tables alike, and find the same elements, for random documents."""

import json
from typing import Any, LiteralString

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.ingestion.transform.projection import Projection
from etl.settings import Decoder
from tests.support.site import Site

DEFINITION = """
name = "routed"
[[table]]
name = "lab.road"
where = { kind = "road", "o.level" = [1, true] }
[table.columns]
id = { type = "text", required = true }
first = { path = "parts.0.weight", type = "numeric" }
second = { path = "parts.1.weight", type = "numeric" }
tag = { path = "tags.0", type = "text" }
cell = { path = "grid.1.0", type = "integer" }
raw = { path = ".", type = "jsonb" }
[[table]]
name = "lab.rest"
where = { kind = ["rail", "a\\nb", 5, true] }
[table.columns]
id = { type = "text", required = true }
kind = { type = "text", max_length = 6 }
[[table]]
name = "lab.legs"
each = "legs"
where = { mode = ["sea", 1.5] }
[table.columns]
id = { path = "^.id", type = "text" }
line_no = { path = "#", type = "integer" }
leg = "integer"
mark = { path = "marks.1", type = "text" }
kind = { path = "^.kind", type = "text" }
[[table]]
name = "lab.stops"
each = ["legs", "stops"]
where = { "^.mode" = "sea" }
[table.columns]
id = { path = "^^.id", type = "text" }
leg = { path = "^.leg", type = "integer" }
line_no = { path = "#", type = "integer" }
city = { path = "at.city", type = "text" }
"""
ROWS: tuple[LiteralString, ...] = (
    "select (to_jsonb(t) - '{etl_run,etl_batch,etl_place}'::text[])::text from lab.road t order by 1",
    "select (to_jsonb(t) - '{etl_run,etl_batch,etl_place}'::text[])::text from lab.rest t order by 1",
    "select (to_jsonb(t) - '{etl_run,etl_batch,etl_place}'::text[])::text from lab.legs t order by 1",
    "select (to_jsonb(t) - '{etl_run,etl_batch,etl_place}'::text[])::text from lab.stops t order by 1",
)

ODD = st.sampled_from(
    ["null", "{}", "[]", "5", '"x"', "[null]", "[5]", "true", '[{"weight":"y"}]', "[[1]]", "[[],[7,8]]"]
)
KINDS = [
    '"road"',
    '"r\\u006fad"',
    '"rail"',
    '"a\\nb"',
    '"a\\u000ab"',
    "5",
    "5.0",
    "50e-1",
    "1",
    "true",
    "false",
    '"sky"',
    "null",
    "{}",
]
TEXTS = st.sampled_from(['"a"', '"\\u00e9\\n"', "null", "7", '""', '"null"', '"\\u0000"'])


def _member(name: str, values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Draw a member, which may be missing or of another kind."""
    return st.sampled_from(["", *"ooo" * 3, "x"]).flatmap(
        lambda kind: (
            st.just("") if not kind else (ODD if kind == "x" else values).map(lambda value: f'"{name}":{value}')
        )
    )


def _object(*members: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*members).map(lambda drawn: "{" + ",".join(filter(None, drawn)) + "}")


def _array(elements: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(elements, max_size=3).map(lambda drawn: f"[{','.join(drawn)}]")


_STOP = _object(_member("at", _object(_member("city", TEXTS))))
_LEG = _object(
    _member("leg", st.sampled_from(["1", '"2"', "3.0", '"x"'])),
    _member("mode", st.sampled_from(['"sea"', '"s\\u0065a"', "1.5", "1.50", '"air"'])),
    _member("marks", _array(TEXTS)),
    _member("stops", _array(_STOP)),
)
_RECORD = st.tuples(
    st.sampled_from(KINDS),
    _object(
        _member(
            "o", st.sampled_from(['{"level":1}', '{"level":true}', '{"level":1.0}', '{"level":"1"}', '{"level":2}'])
        ),
        _member("parts", _array(_object(_member("weight", st.sampled_from(["1.5", '"2"', '"x"']))))),
        _member("tags", _array(TEXTS)),
        _member("grid", _array(_array(st.sampled_from(["1", "2.0", "null"])))),
        _member("legs", _array(_LEG)),
    ),
)


@st.composite
def _documents(draw: st.DrawFn) -> bytes:
    records = [
        f'{{"id":"{number}","kind":{kind}{"," if rest != "{}" else ""}{rest[1:]}'
        for number, (kind, rest) in enumerate(draw(st.lists(_RECORD, min_size=1, max_size=15)))
    ]
    if draw(st.booleans()):
        return "\n".join(records).encode()
    return f"[{draw(st.sampled_from([',', ', ', ' ,'])).join(records)}]".encode()


def _load(site: Site, content: bytes, decoder: Decoder = "auto", batch_rows: int = 100) -> Any:
    """Load a source into empty tables, and return the rows, rejected records, exit code, error and effects."""
    site.forget_loads("routed")
    path = site.folder / "source"
    path.write_bytes(content)
    summary, error = site.bring(path, "routed", decoder=decoder, batch_rows=batch_rows)
    rows = [site.column(query) for query in ROWS]
    return rows, site.failures.records(summary.run), summary.exit_code, str(error or ""), summary.policies


@pytest.mark.parametrize("examples", [8, pytest.param(400, marks=pytest.mark.slow)])
def test_both_paths_divide_records_among_tables_alike(site: Site, examples: int) -> None:
    """Conditions, positions, arrays in arrays and whole records give the same result by both paths."""
    site.define(DEFINITION)

    @settings(deadline=None, derandomize=True, max_examples=examples)
    @given(_documents(), st.sampled_from([3, 100]))
    def compare(document: bytes, batch_rows: int) -> None:
        checked = _load(site, document, "ijson")
        assert _load(site, document, batch_rows=batch_rows) == checked

    compare()


def test_good_records_of_many_tables_do_not_need_the_checked_path(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that conditions divide among tables, with positions and nested arrays, take the fast path."""
    site.define(DEFINITION)
    records = []
    for number in range(60):
        legs = [
            {"leg": leg, "mode": "sea", "marks": ["a", "b"], "stops": [{"at": {"city": "x"}}] * leg} for leg in range(3)
        ]
        kind = "road" if number % 2 else "rail"
        parts = [{"weight": 1.5}, {"weight": number}]
        records.append({"id": str(number), "kind": kind, "o": {"level": 1}, "parts": parts, "tags": [], "legs": legs})
    document = json.dumps(records).encode()
    checked = _load(site, document, "ijson")
    assert [len(rows) for rows in checked[0]] == [30, 30, 180, 180]
    for refusing in ("rows_of", "rows_together"):
        monkeypatch.setattr(Projection, refusing, None)
    assert _load(site, document) == checked


@pytest.mark.parametrize("shape", ["array", pytest.param("lines", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "odd",
    [
        b'"kind":"rail","parts":[{},{},{"weight":"\xff"}]',
        b'"kind":"rail","tags":["\xff"]',
        b'"kind":"rail","legs":[{"mode":"air","marks":["a","\xff"]}]',
        b'"kind":"rail","legs":[{"leg":"\xff","mode":"sea","stops":[]}]',
        b'"kind":"rail","tags":[1,%b]' % (b"[" * 11_000 + b"]" * 11_000),
        b'"kind":"rail","grid":[%b]' % (b"[" * 300 + b"]" * 300),
    ],
)
def test_what_no_row_holds_is_checked_all_the_same(site: Site, odd: bytes, shape: str) -> None:
    """Invalid UTF-8 and levels beyond the bound reject a record also in a value that none of its rows takes."""
    site.define(DEFINITION)
    records = [b'{"id":"%d","kind":"rail"}' % number for number in range(60)]
    records[30] = b'{"id":"30",%b}' % odd
    document = b"\n".join(records) if shape == "lines" else b"[%b]" % b",".join(records)
    checked = _load(site, document, "ijson")
    # The blocks of the first batch are proven before the fast path is known.
    assert _load(site, document, batch_rows=10) == checked
    assert (checked[2], len(checked[1])) == ((0, 0) if b"grid" in odd else (1, 1))
