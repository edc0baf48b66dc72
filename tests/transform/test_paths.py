from pathlib import Path

import pytest

from etl.datasets import read
from etl.ingestion.transform.paths import fast


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ('{ path = ".", type = "jsonb" }', "column c takes a whole object"),
        ('{ path = "a.b", type = "text" }\na = "jsonb"', "a path leads to b in a member that is itself a column"),
        ('{ value = "x\\ty", type = "text" }', "column c has a constant that needs a conversion"),
    ],
)
def test_a_dataset_without_a_fast_path_is_reported(tmp_path: Path, column: str, reason: str) -> None:
    """Such a dataset is loaded by the checked path alone, and the projection returns the reason."""
    path = tmp_path / "odd.toml"
    first, _, second = column.partition("\n")
    lines = [second, f"c = {first}"] if second else [f"c = {first}"]
    path.write_text("\n".join(['name = "odd"', "[[table]]", 'name = "a.b"', "[table.columns]", *lines]))
    assert fast(read(path)) == reason
