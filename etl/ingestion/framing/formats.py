"""Formats that are no JSON, recognised by how their content begins. Pure."""

import re

FORMATS: dict[str, str] = {
    "Parquet": r"PAR1",
    "Avro": r"Obj\x01",
    "ORC": r"ORC",
    "an SQLite database": r"SQLite format 3\x00",
    "PDF": r"%PDF-",
    "an old Excel workbook": r"\xd0\xcf\x11\xe0",
    "7-Zip": r"7z\xbc\xaf",
    "a tar archive": r"(?s).{257}ustar",
    "HTML, such as an error page": r"(?i)\s*<(!doctype html|html|head|body)\b",
    "XML": r"\s*<",
    "JSON without an object or array": r"\s*(\"[^\"\n]*\"|-?[0-9.eE+-]+|true|false|null)\s*\Z",
    "CSV or another table of text": r"[^\n\r\x00]*[,;\t|][^\n\r\x00]*[\n\r]",
    "YAML": r"---\s|[\w-]+:\s",
}
"""Formats that are no JSON, with the regular expression for their beginning as latin-1 text; the first match counts."""


def format_of(beginning: str) -> str | None:
    """Return the name of the format of a file that begins so, or None; its bytes are given as latin-1 text."""
    return next((name for name, pattern in FORMATS.items() if re.match(pattern, beginning)), None)
