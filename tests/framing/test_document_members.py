"""What a document has around its records is shown to the readers of its records paths, by path."""

import re
from collections.abc import Sequence
from typing import Any

import pytest

from etl.errors import UsageError
from etl.ingestion.framing.document_members import DocumentMembers
from etl.ingestion.framing.pieces import CutOptions, cut
from tests.support.streams import Bytes

DOCUMENT = b'{"feed": {"id": 7, "tags": ["a", "b"]}, "rows": [{"id": 1}, {"id": 2}], "others": [{"id": 3}], "e": null}'


class Scalars:
    """Keeps the scalars around the records, with their paths."""

    def __init__(self) -> None:
        self.found: list[tuple[str, Any]] = []

    def add(self, path: Sequence[str], event: str, value: Any) -> None:
        """Keep a scalar."""
        if event in {"string", "number", "null"}:
            self.found.append((".".join(path), value))


def test_each_reader_gets_the_values_outside_of_all_records() -> None:
    """Readers of two records paths get the same values in the order of the document, and none of a record."""
    readers = [Scalars(), Scalars()]
    options = [
        CutOptions(format="document", records_path=path, batch_rows=9, outside=reader)
        for path, reader in zip(["rows.item", "others.item"], readers, strict=True)
    ]
    assert [piece.count for piece in cut(Bytes(DOCUMENT), *options)] == [2, 1]
    expected = [("feed.id", 7), ("feed.tags.item", "a"), ("feed.tags.item", "b"), ("e", None)]
    assert [reader.found for reader in readers] == [expected, expected]


def test_members_are_collected_as_they_are() -> None:
    """A scalar, an object and an array of the document are collected; a member that is missing is not."""
    members = DocumentMembers([("feed",), ("feed", "tags"), ("e",), ("missing",)])
    list(cut(Bytes(DOCUMENT), CutOptions(format="document", records_path="rows.item", batch_rows=9, outside=members)))
    tags = ["a", "b"]
    assert members.values == {("feed",): {"id": 7, "tags": tags}, ("feed", "tags"): tags, ("e",): None}
    assert not members.has_all


@pytest.mark.parametrize(
    ("second", "number"), [('{"feed": 8, "rows": [{"id": 1}]}', 2), ('{"rows": [{"id": 1}]}', 3)], ids=["other", "none"]
)
def test_a_reader_names_the_document_and_the_cutter_the_source(second: str, number: int) -> None:
    """Of documents that follow one another, one with another value is named with the source, or the one after it."""
    page = '{"feed": 7, "rows": [{"id": 1}]}'
    how = CutOptions(format="document", records_path="rows.item", batch_rows=9, outside=DocumentMembers([("feed",)]))
    with pytest.raises(UsageError, match=re.escape(f"a.json: document {number} has another value of feed")) as refused:
        list(cut(Bytes(f"{page}{second}{page}".encode()), how))
    assert 'path = "^.feed"' in (refused.value.hint or "")
