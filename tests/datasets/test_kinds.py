"""What a definition with several tables of records must hold."""

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
    """With a key, each table that a record may go to has its columns, and that of the newest version."""
    assert old in EVENTS
    with pytest.raises(DefinitionError, match=message):
        define(EVENTS.replace(old, new, 1), "events")


def test_a_key_and_child_tables_want_one_table_of_records(define: Define) -> None:
    """Child rows of two records with one key could not be told apart."""
    child = '\n[[table]]\nname = "a.b"\neach = "c"\ncolumns = { id = { path = "^.id", type = "text" } }'
    with pytest.raises(DefinitionError, match="divide it into several datasets"):
        define(EVENTS + child, "events")
