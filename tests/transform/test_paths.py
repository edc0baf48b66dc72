from pathlib import Path

import pytest

from etl.datasets import read
from etl.ingestion.transform.fastpath import FastPath
from etl.ingestion.transform.paths import fast
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Block
from tests.support.definitions import Define


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ('{ path = ".", type = "text" }', "column c takes a whole object"),
        ('{ path = "0.b", type = "text" }', "a path begins with a number, which is a name in a record"),
        ('{ path = "a.b", type = "text" }\na = "jsonb"', "a path leads to b in a member that is itself a column"),
        (
            '{ path = "a.0.b", type = "text" }\na = { path = "a.b", type = "text" }',
            "a is taken by its members and by the positions of its elements",
        ),
        (
            '{ path = "a", type = "text" }\nb = { path = "a.b", type = "text" }',
            "column c takes a member whose own members are also columns",
        ),
        ('{ value = "x\\ty", type = "text" }', "column c has a constant that needs a conversion"),
        ('{ value = "x", type = "text", null_if = [1] }', "column c has a constant that needs a conversion"),
        ('{ type = "text", default = "x\\ty" }', "column c has a default that needs a conversion"),
    ],
)
def test_a_dataset_without_a_fast_path_is_reported(tmp_path: Path, column: str, reason: str) -> None:
    """Such a dataset is loaded by the checked path alone, and the projection returns the reason."""
    path = tmp_path / "odd.toml"
    first, _, second = column.partition("\n")
    lines = [second, f"c = {first}"] if second else [f"c = {first}"]
    path.write_text("\n".join(['name = "odd"', "[[table]]", 'name = "a.b"', "[table.columns]", *lines]))
    assert fast(read(path)) == reason


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        (['where = { "." = "x" }'], "the `where` of a.t0 takes more than a member"),
        (['where = { "c.d" = "x" }'], "a path leads to d in a member that is itself a column"),
        (
            ["", 'each = "legs"', 'each = "legs.0.stops"'],
            "legs holds an array of arrays",
        ),
        (["", 'each = "legs"', 'each = "legs.stops"'], "legs holds an array of arrays"),
    ],
)
def test_a_table_without_a_fast_path_is_reported(define: Define, tables: list[str], reason: str) -> None:
    """A table that takes members in two ways has no fast path either."""
    texts = [
        f'[[table]]\nname = "a.t{number}"\n{options}\ncolumns = {{ c = "text" }}'
        for number, options in enumerate(tables)
    ]
    assert fast(define("\n".join(['name = "parcels"', *texts]))) == reason


OF_SOME_ROWS = """
name = "parcels"
[[table]]
name = "lab.road"
where = { kind = "road" }
[table.columns]
id = "text"
weight = { path = "parts.0.weight", type = "numeric" }
cell = { path = "grid.1.0", type = "integer" }
[[table]]
name = "lab.rest"
[table.columns]
id = "text"
city = { path = "to.city", type = "text" }
[[table]]
name = "lab.stops"
each = ["legs", "stops"]
[table.columns]
id = { path = "^^.id", type = "text" }
mode = { path = "^.mode", type = "text" }
name = "text"
"""


@pytest.mark.parametrize(
    ("member", "is_sound"),
    [
        (b'"parts":[{"weight":1.5},{"weight":2}],"grid":[[],[1,2]]', True),
        (b'"parts":[{},{"weight":"\xff"}]', False),
        (b'"grid":[["\xff"],[1]]', False),
        (b'"to":{"city":"\xff"}', False),
        (b'"legs":[{"mode":"\xff","stops":[]}]', False),
        (b'"legs":[{"mode":"sea","stops":[{"name":"\xc3\xa4"}]}]', True),
        (b'"parts":[{},{"weight":%b}]' % (b"[" * 300 + b"]" * 300), False),
    ],
)
def test_a_block_is_proven_with_all_members_that_no_row_takes(define: Define, member: bytes, *, is_sound: bool) -> None:
    """The fast path decodes a block once, also where rows leave named members out: these are checked by themselves."""
    dataset = define(OF_SOME_ROWS)
    shape = fast(dataset)
    assert not isinstance(shape, str)
    records = [b'{"id":"a","kind":"road","parts":null}', b'{"id":"b","kind":"road",%b}' % member]
    block = Block(data=b",".join(records), shape="array", offset=1, place=1)
    proof = FastPath(shape, Projection(dataset), 1).prove(block)
    assert (proof is not None) == is_sound
    assert proof is None or (proof.records, proof.rows and proof.rows.suspects) == (2, [])
