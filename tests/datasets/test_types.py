import json
import re
from pathlib import Path
from typing import get_args

import psycopg
import pytest
from psycopg import sql

from etl.datasets import TYPES, Column, Type, sql_type
from etl.datasets.types import OPTIONS, SYNONYMS, ColumnType, with_option

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "dataset-definitions.md"


def test_each_type_has_its_entry() -> None:
    """Every type that a definition can name is in the table, under its own name."""
    assert tuple(TYPES) == get_args(Type)
    assert all(name == entry.name for name, entry in TYPES.items())


def test_a_synonym_names_one_type_and_is_none_itself() -> None:
    """A synonym from another system names one type, and is never itself the name of a type."""
    synonyms = [synonym for entry in TYPES.values() for synonym in entry.synonyms]
    assert len(synonyms) == len(set(synonyms)) == len(SYNONYMS)
    assert not set(synonyms) & set(TYPES)


def test_each_option_of_the_table_is_an_option_of_a_column() -> None:
    """The table names only options of a column, and each option has a description of its types."""
    assert set(Column.__struct_fields__) > OPTIONS
    assert with_option("timezone") == "timestamptz"
    assert with_option("formats").endswith(" or timestamptz")


@pytest.mark.parametrize("entry", TYPES.values(), ids=list(TYPES))
def test_the_reference_page_knows_each_type(entry: ColumnType) -> None:
    """The page lists the type under `type`, with a value that is accepted and one that is refused."""
    page = PAGE.read_text(encoding="utf-8")
    [row] = [line for line in page.splitlines() if line.startswith("| `type` |")]
    assert f"`{entry.name}`" in row
    for example in entry.examples:
        json.loads(example)
        assert f"| `{entry.name}` | `{example}` |" in page
    becomes = re.findall(rf"^\| `{re.escape(entry.name)}` \| .* \| (.*) \|$", page, re.MULTILINE)
    assert len({text.startswith("misfit") for text in becomes}) == 2


@pytest.mark.parametrize("entry", TYPES.values(), ids=list(TYPES))
def test_postgresql_knows_each_type_by_the_names_of_the_table(
    postgresql: psycopg.Connection[tuple[str]], entry: ColumnType
) -> None:
    """The name of the type in statements and its name in the catalogue are those of the table."""
    query = sql.SQL("select format_type(pg_typeof(null::{})::oid, null)").format(sql_type(entry.name))
    assert postgresql.execute(query).fetchone() == (entry.server_name,)


@pytest.mark.parametrize("entry", TYPES.values(), ids=list(TYPES))
def test_a_type_with_bounds_can_read_them(entry: ColumnType) -> None:
    """A bound of a type that has bounds is read, or refused with the expected form."""
    assert entry.options & {"min", "above", "max"} in (set(), {"min", "above", "max"})
    if "min" in entry.options:
        with pytest.raises(ValueError, match="a "):
            entry.bound("lots")


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("08:15", "08:15:00.000000"),
        ("08:15:30", "08:15:30.000000"),
        ("08:15:30.5", "08:15:30.500000"),
        ("24:00", "24:00:00.000000"),
        ("24:00:00", "24:00:00.000000"),
    ],
)
def test_bounds_of_a_time_compare_as_texts(text: str, bound: str) -> None:
    """Each spelling of a time of day is converted to one form in which a later time is the greater text."""
    assert TYPES["time"].bound(text) == bound


@pytest.mark.parametrize("text", ["", "8:15", "24:01", "25:00", "08:60", "08:15Z", "815", "08:15:30.1234567"])
def test_a_bound_of_a_time_is_a_time_of_day(text: str) -> None:
    """Any other text is refused."""
    with pytest.raises(ValueError, match="a time of day"):
        TYPES["time"].bound(text)
