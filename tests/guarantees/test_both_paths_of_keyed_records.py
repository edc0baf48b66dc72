"""The two paths load the members of an object alike, for random documents."""

from typing import Any, LiteralString
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.ingestion.framing import piece_builder, window
from etl.ingestion.transform.projection import Projection
from etl.settings import Decoder
from tests.support.site import Site

DEFINITION = """
name = "keyed"
records = "items.*"
[[table]]
name = "lab.keyed"
[table.columns]
code = { path = "@", type = "text" }
name = "text"
weight = { type = "numeric", min = 0 }
city = { path = "at.city", type = "text" }
raw = { path = ".", type = "jsonb" }
[[table]]
name = "lab.keyed_parts"
each = "parts"
[table.columns]
code = { path = "@", type = "text" }
line_no = { path = "#", type = "integer" }
sku = "text"
"""
ROWS: tuple[LiteralString, ...] = (
    "select (to_jsonb(t) - '{etl_run,etl_batch,etl_place}'::text[])::text from lab.keyed t order by 1",
    "select (to_jsonb(t) - '{etl_run,etl_batch,etl_place}'::text[])::text from lab.keyed_parts t order by 1",
)

_KEYS = st.integers(0, 400).map("K{}".format) | st.sampled_from(
    ["", "é", "\\u004b1", "K\\n", 'a\\"b', "\\u0000", "{", "},"]
)
_NAMES = st.sampled_from(['"x"', '"\\u00e9\\n"', "7", "null", '"},\\"K9\\":{\\"name\\":"', '"\\u0000"'])
_OTHERS = st.sampled_from(
    [
        '"weight":1.5',
        '"weight":-1',
        '"weight":"2"',
        '"at":{"city":"y"}',
        '"at":{"name":1,"city":"z"}',
        '"at":5',
        '"more":{"name":{}}',
        '"parts":[{"sku":"a"},{"sku":5}]',
        '"parts":[]',
        '"parts":{"name":1}',
        '"name":"again"',
    ]
)


@st.composite
def _documents(draw: st.DrawFn) -> bytes:
    """Draw a document whose records have mostly the same form, with a few odd members."""
    colon, comma = draw(st.sampled_from([(":", ","), (": ", ",\n  "), (":", ", "), (" : ", " ,")]))
    held = []
    for number in range(draw(st.integers(1, 30))):
        key = draw(_KEYS) if draw(st.integers(0, 9)) == 0 else f"K{number}"
        others = draw(st.lists(_OTHERS, max_size=2, unique_by=lambda text: text[:6]))
        record = "{" + ",".join([f'"name":{draw(_NAMES)}', *others]) + "}"
        if draw(st.integers(0, 19)) == 0:
            record = draw(st.sampled_from(["5", "[]", "{}", "null", '"x"']))
        held.append(f'"{key}"{colon}{record}')
    text = f'{{"items":{{{comma.join(held)}}},"end":1}}'
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(text) - 1))
        text = text[:at] + draw(st.sampled_from(["", '"', "}", ","])) + text[at + 1 :]
    return text.encode()


def _load(site: Site, content: bytes, decoder: Decoder = "auto", batch_rows: int = 100) -> Any:
    """Load a source into empty tables, and return the rows, rejects, exit code, error, records read and effects."""
    site.forget_loads("keyed")
    path = site.folder / "source"
    path.write_bytes(content)
    summary, error = site.bring(path, "keyed", decoder=decoder, batch_rows=batch_rows)
    rows = [site.column(query) for query in ROWS]
    rejected = site.failures.records(summary.run)
    return rows, rejected, summary.exit_code, str(error or ""), summary.records.read, summary.policies


@pytest.mark.parametrize("examples", [8, pytest.param(400, marks=pytest.mark.slow)])
def test_both_paths_treat_keyed_records_alike(site: Site, examples: int) -> None:
    """Records with keys give the same rows and rejected records by both paths, in blocks of any size."""
    site.define(DEFINITION)

    @settings(deadline=None, derandomize=True, max_examples=examples)
    @given(_documents(), st.sampled_from([3, 100]), st.sampled_from([200, 1 << 17]))
    def compare(document: bytes, batch_rows: int, block: int) -> None:
        checked = _load(site, document, "ijson")
        with patch.object(window, "BLOCK_BYTES", block), patch.object(piece_builder, "BLOCK_BYTES", block):
            assert _load(site, document, batch_rows=batch_rows) == checked

    compare()


@pytest.mark.parametrize("separators", [(":", ","), (": ", ",\n")])
def test_good_keyed_records_do_not_need_the_checked_path(
    site: Site, monkeypatch: pytest.MonkeyPatch, separators: tuple[str, str]
) -> None:
    """Keyed records are cut in blocks and take the fast path."""
    site.define(DEFINITION)
    colon, comma = separators
    record = '{"name":"é\\n","weight":"1.50","at":{"city":"x"},"parts":[{"sku":"a"},{"sku":"b"}]}'
    held = comma.join(f'"K{number}"{colon}{record}' for number in range(90))
    document = f'{{"items":{{{held}}}}}'.encode()
    checked = _load(site, document, "ijson")
    assert [len(rows) for rows in checked[0]] == [90, 180]
    for refusing in ("rows_of", "rows_together"):
        monkeypatch.setattr(Projection, refusing, None)
    assert _load(site, document) == checked
