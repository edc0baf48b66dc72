import random
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import pytest

from etl.datasets import Dataset, read
from etl.ingestion.transform.fastpath import FastPath
from etl.ingestion.transform.paths import fast
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Block, Piece
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


_DEEP = b"[" * 250 + b"]" * 250
_LEVEL = b"[" * 150 + b"]" * 150


@pytest.mark.parametrize(
    ("late", "is_sound"),
    [
        (b'"colour":"red"', True),
        (b'"colour":%b' % _LEVEL, True),
        (b'"colour":%b' % _DEEP, False),
        (b'"colour":"\xff"', False),
        (b'"scans":[{"code":"IN","by":%b}]' % _LEVEL, True),
        (b'"scans":[{"code":"IN","by":%b}]' % _DEEP, False),
        (b'"colour":1,"shade":%b' % _DEEP, False),
    ],
)
def test_a_block_is_proven_with_its_unknown_members(define: Define, late: bytes, *, is_sound: bool) -> None:
    """Unknown members of a proven block are UTF-8 and not deep, also one of its last record alone; they are counted."""
    dataset = define(
        """
        name = "parcels"
        [[table]]
        name = "lab.parcels"
        columns = { id = "text" }
        [[table]]
        name = "lab.scans"
        each = "scans"
        columns = { code = "text" }
        """
    )
    shape = fast(dataset)
    assert not isinstance(shape, str)
    path = FastPath(shape, Projection(dataset), 1)
    usual = [b'{"id":"a","colour":"red","scans":[{"code":"IN","by":"x"}]}'] * 40
    first, proof = (
        path.prove(Block(data=b",".join(records), shape="array", offset=1, place=1))
        for records in (usual, [*usual, b'{"id":"b",%b}' % late])
    )
    assert first is not None
    assert (proof is not None) == is_sound
    if proof is not None and proof.rows is not None:
        colours = 40 + (b"colour" in late)
        assert proof.rows.unknown == {"colour": colours, "scans.by": 40 + (b"scans" in late)}


@pytest.mark.parametrize(
    "others",
    [
        [b'{"id":"a","kg":1,"note":"see [A-1]"}', b'{"id":null,"kg":2,"note":"},{"}'],
        [b'{"id":"a","kg":1,"legs":[{"id":"b"},{"id":"c"}]}', b'{"kg":2,"note":"[]"}'],
        [b'{"kg":1,"id":"a","tags":["id"]}', b'{"id":"b","id":"c"}'],
    ],
)
def test_a_suspect_is_found_beside_arrays(define: Define, others: list[bytes]) -> None:
    """The bytes of a record that the checked path decides about are those of its place, whatever is around it."""
    dataset = define(
        """
        name = "parcels"
        [[table]]
        name = "lab.parcels"
        columns = { id = "text", kg = "numeric", note = "text" }
        """
    )
    shape = fast(dataset)
    assert not isinstance(shape, str)
    bad = b'{"id":"z","kg":"heavy","note":"[}"}'
    records = [*others, bad, *others, bad]
    proof = FastPath(shape, Projection(dataset), 1).prove(
        Block(data=b",\n".join(records), shape="array", offset=1, place=1)
    )
    assert proof is not None
    assert proof.rows is not None
    data = b",\n".join(records)
    assert [(place, data[span.start : span.end]) for place, span in proof.rows.suspects] == [(3, bad), (6, bad)]


ODD_TOKENS = [
    (b'"id":"b","kg":"2.5"', ['"b"', "null", "null", '"2.5"', "null"]),
    (b'"id":"b","count":"1e2"', None),
    (b'"id":"b","kg":"heavy"', None),
    (b'"id":7,"note":"caf\\u00e9"', ["7", '"café"', "null", "null", "null"]),
    (b'"id":{},"note":"caf\\u00e9"', None),
    (b'"id":"b","note":"a\\u0000"', None),
    (b'"id":"b","note":"a\\\\u0000"', ['"b"', '"a\\\\u0000"', "null", "null", "null"]),
    (b'"id":"\\u001f","note":"a\\\\u0000"', None),
    (b'"id":"b","at":"yesterday"', None),
]
"""The members of a record with an odd token, and its fields; None: it is suspect."""


@pytest.mark.parametrize(("members", "fields"), ODD_TOKENS)
def test_only_odd_tokens_are_looked_at_by_themselves(define: Define, members: bytes, fields: list[str] | None) -> None:
    """The other tokens of their rows stay as they are, and so do all other rows; no field is that of another column."""
    dataset = define(
        """
        name = "parcels"
        [[table]]
        name = "lab.parcels"
        columns = { id = "text", note = "text", count = "integer", kg = "numeric", at = "timestamptz" }
        """
    )
    shape = fast(dataset)
    assert not isinstance(shape, str)
    usual = b'{"id":"a","note":"x\\t","count":1,"kg":1.5,"at":"2025-01-01T00:00:00Z"}'
    records = [usual, b"{%b}" % members, usual]
    proof = FastPath(shape, Projection(dataset), 1).prove(
        Block(data=b",".join(records), shape="array", offset=1, place=1)
    )
    assert proof is not None
    assert proof.rows is not None
    assert [place for place, _ in proof.rows.suspects] == ([] if fields else [2])
    [(lines, _)] = proof.rows.tables
    rows = [line.split("\x1f")[:-3] for line in lines[b""].decode().splitlines()]
    own = ['"a"', '"x\t"', "1", "1.5", '"2025-01-01T00:00:00Z"']
    assert rows == [own, *([fields] if fields else []), own]


OF_MONTHS = """
name = "parcels"
[[table]]
name = "lab.visits"
DIVIDED
[table.columns]
id = "integer"
seen_at = "timestamptz"
at = { type = "timestamptz", required = true }
[[table]]
name = "lab.lines"
each = "lines"
DIVIDED
[table.columns]
line = { path = "#", type = "integer" }
at = { path = "^.at", type = "timestamptz", required = true }
"""


def _sent(dataset: Dataset, blocks: Sequence[bytes], strict_at: str = "") -> list[list[dict[str, bytes]]]:
    """Return the fields of the rows of each table that a fast path sends, in order, by the names of their columns."""
    shape = fast(dataset)
    assert not isinstance(shape, str)
    path: FastPath | None = FastPath(shape, Projection(dataset), 1)
    if strict_at and path is not None:
        path = path.suspecting([(dataset.tables[0].name, strict_at)])
    assert path is not None
    ends = list(accumulate(map(len, blocks)))
    spans = tuple(zip([0, *ends[:-1]], ends, strict=True))
    count = sum(block.count(b"\n") for block in blocks)
    piece = Piece(offset=0, count=count, first_record=1, parts=tuple(blocks), shape="lines", blocks=spans)
    [batch] = [batch for batch in path.batching(piece) if batch is not None]
    tables = []
    for fast_rows, checked in batch.tables:
        lines = b"".join(fast_rows.encoded()).splitlines()
        assert (fast_rows.count, checked.count) == (len(lines), 0)
        names = fast_rows.columns or ()
        tables.append([dict(zip(names, line.split(b"\x1f"), strict=True)) for line in lines])
    return tables


@pytest.mark.parametrize(("every", "width", "strict_at"), [("month", 8, ""), ("month", 8, "at"), ("day", 11, "")])
def test_rows_of_a_partition_are_sent_together(define: Define, every: str, width: int, strict_at: str) -> None:
    """The rows of a batch are those of an undivided table, by months or days; child rows stay in their order."""
    times = [f"2025-{month:02}-{day:02}T10:00:00Z" for month in range(1, 13) for day in range(1, 11)]
    random.Random(1).shuffle(times)
    records = [
        b'{"id":%d,"seen_at":"2020-01-01T00:00:00Z","at":"%b","lines":[%b]}\n'
        % (number, time.encode(), b",".join([b"{}"] * (number % 3)))
        for number, time in enumerate(times)
    ]
    blocks = [b"".join(records[at : at + 25]) for at in range(0, len(records), 25)]
    divided = define(OF_MONTHS.replace("DIVIDED", f'partition_by = "at"\npartition_every = "{every}"'))
    plain = define(OF_MONTHS.replace("DIVIDED", ""))
    [visits, lines], [plain_visits, plain_lines] = _sent(divided, blocks, strict_at), _sent(plain, blocks)
    assert (len(visits), len(lines)) == (120, 120)
    assert visits == sorted(plain_visits, key=lambda row: row["at"][:width])
    assert lines == plain_lines
