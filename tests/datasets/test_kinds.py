"""The rules for a definition with several tables of records."""

import pytest

from etl.errors import DefinitionError
from tests.support.definitions import EVENTS, Define


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('id = { type = "text", required = true }\nversion = "integer"\nbox', "box", "expected the key column id"),
        ('required = true }\nversion = "integer"\nbox', "required = false }\nbox", "a key column expects required"),
        ('version = "integer"\nbox', "box", "newest_by names 'version', which is not a comparable column"),
        (
            'columns]\nid = { type = "text", required = true }\nversion = "integer"\nbox',
            'columns]\nid = { type = "bigint", required = true }\nversion = "integer"\nbox',
            "expected the key column id of type text",
        ),
    ],
)
def test_every_table_of_records_holds_the_key(define: Define, old: str, new: str, message: str) -> None:
    """With a key, each table of records has the key columns and the column of the newest version."""
    assert old in EVENTS
    with pytest.raises(DefinitionError, match=message):
        define(EVENTS.replace(old, new, 1), "events")


def test_a_key_and_child_tables_require_one_table_of_records(define: Define) -> None:
    """A key and child tables require one table of records, so that child rows have one parent row."""
    child = '\n[[table]]\nname = "a.b"\neach = "c"\ncolumns = { id = { path = "^.id", type = "text" } }'
    with pytest.raises(DefinitionError, match="divide it into several datasets"):
        define(EVENTS + child, "events")
