from pathlib import Path

import pytest

from etl.datasets import read
from etl.ingestion.transform.paths import fast
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
