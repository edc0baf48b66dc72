"""Formats other than JSON are recognised by their first bytes."""

import pytest

from etl.ingestion.framing.formats import format_of


@pytest.mark.parametrize(
    ("beginning", "name"),
    [
        (b"PAR1\x15\x04", "Parquet"),
        (b"Obj\x01\x04", "Avro"),
        (b"%PDF-1.7", "PDF"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"exports/a.json" + bytes(243) + b"ustar", "a tar archive"),
        (b"\n<!DOCTYPE html><html>", "HTML, such as an error page"),
        (b'<?xml version="1.0"?>', "XML"),
        (b"shipment_id,weight (kg)\nA,1\n", "CSV or another table of text"),
        (b'"shipment_id";"weight"\r\n', "CSV or another table of text"),
        (b"null\n", "JSON without an object or array"),
        (b"---\n- a: 1\n", "YAML"),
        (b"hello", None),
    ],
)
def test_another_format_is_recognised(beginning: bytes, name: str | None) -> None:
    """A file of another format is reported by its usual name."""
    assert format_of(beginning.decode("latin-1")) == name
