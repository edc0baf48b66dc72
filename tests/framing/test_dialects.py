"""Texts that are nearly JSON are refused with what they are, where, and the command that makes JSON of them."""

import json
import subprocess
from pathlib import Path

import pytest

from etl.errors import SourceError
from etl.ingestion.framing import decoding
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.values import Fault
from tests.support.streams import Bytes

WRAPPED = "JSON with code around it, as for a web page"
PREFIXED = "lines with other text before the JSON, such as a log"
COMMENTS = "comments, which JSON does not have"
COMMA = "a comma before a closing bracket"
PYTHON = "a value as Python prints it"
NAMES = "names without quotes"
NOT_A_NUMBER = "NaN or an infinity, which JSON does not have"


def _fault(text: str, records: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        list(cut(Bytes(text.encode()), CutOptions(format="auto", records_path=records, batch_rows=9)))
    return caught.value


def _commanded(hint: str | None, text: str, folder: Path) -> list[object]:
    """Return the JSON that the command of a hint makes of a text."""
    assert hint is not None
    command = hint.removesuffix(" | etl load DATASET -").removeprefix("this writes null: ")
    if command.startswith("npx"):  # It is fetched from the network.
        return []
    (folder / "FILE").write_text(text)
    made = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    values: list[object] = []
    text = made.stdout.strip()
    while text:
        value, end = json.JSONDecoder().raw_decode(text)
        text = text[end:].strip()
        values += value if isinstance(value, list) else [value]
    return values


@pytest.mark.parametrize(
    ("text", "name", "records"),
    [
        (')]}\'\n[{"a": 1}, {"a": 2}]', WRAPPED, "item"),
        ('while(1);[{"a": 1}, {"a": 2}]', WRAPPED, "item"),
        ('for(;;);[{"a": 1}, {"a": 2}]', WRAPPED, "item"),
        ('var x = [{"a": 1}, {"a": 2}];\n', WRAPPED, "item"),
        ('module.exports = [{"a": 1}, {"a": 2}]', WRAPPED, "item"),
        ('callback([{"a": 1}, {"a": 2}]);', WRAPPED, "item"),
        ('2026-01-01T00:00:01Z INFO {"a": 1}\n2026-01-01T00:00:02Z INFO {"a": 2}\n', PREFIXED, "item"),
        ('2026-01-01 00:00:01,123 - {"a": 1}\n2026-01-01 00:00:01,124 - {"a": 2}\n', PREFIXED, "item"),
        ('data: {"a": 1}\ndata: {"a": 2}\n', PREFIXED, "item"),
        ('key-1\t{"a": 1}\nkey-2\t{"a": 2}\n', PREFIXED, "item"),
        ('[2026-01-01 10:00] {"a": 1}\n[2026-01-01 10:01] {"a": 2}\n', PREFIXED, "item"),
        ("[{'a': 1}, {'a': 2}]", PYTHON, "item"),
        ('[{"a": 1, "b": None}, {"a": 2}]', PYTHON, "item"),
        ('{"page": True, "rows": [{"a": 1}]}', PYTHON, "rows.item"),
        ('[{"a": 1}, {"a": NaN}]', NOT_A_NUMBER, "item"),
        ('[{"a": 1}, // first\n{"a": 2}]', COMMENTS, "item"),
        ('[{"a": 1} /* first */, {"a": 2}]', COMMENTS, "item"),
        ('{"rows": [{"a": 1}],\n# the end\n"n": 1}', COMMENTS, "rows.item"),
        ('[{"a": 1}, {"a": 2},\n]', COMMA, "item"),
        ('[{"a": 1,}, {"a": 2}]', COMMA, "item"),
        ("[{a: 1}, {a: 2}]", NAMES, "item"),
    ],
)
def test_what_is_nearly_json_is_named_with_a_command(text: str, name: str, records: str, tmp_path: Path) -> None:
    """The fault names what the text is and where; its hint makes JSON of it, and asks for no other file."""
    fault = _fault(text, records)
    assert name in str(fault)
    assert ", byte " in str(fault)
    assert fault.hint is not None
    assert "get the file again" not in fault.hint
    if records == "item":
        made = _commanded(fault.hint, text, tmp_path)
        assert [each.get("a") for each in made if isinstance(each, dict)] in ([], [1, 2], [1, None])


@pytest.mark.parametrize(
    ("line", "name"),
    [('{"a": NaN}', NOT_A_NUMBER), ("{'a': 1}", PYTHON), ('{"a": 1,}', COMMA), ('{"a": -Infinity}', NOT_A_NUMBER)],
)
def test_a_line_that_is_nearly_json_is_one_rejected_record(line: str, name: str) -> None:
    """Of lines only the record is rejected, with what it is."""
    data = f'{{"a": 1}}\n{line}\n{{"a": 2}}\n'.encode()
    [piece] = cut(Bytes(data), CutOptions(format="auto", records_path="item", batch_rows=9))
    first, second, third = decoding.decode(piece)
    assert (first, third) == ({"a": 1}, {"a": 2})
    assert isinstance(second, Fault)
    assert second.reason.startswith(f"not JSON: {name}")


@pytest.mark.parametrize("text", ['[{"a":"// x, ]"}]', '{"a":"\'"}', '[{"#":1}]', '{"x: {":1}', "[\n]"])
def test_json_is_no_dialect(text: str) -> None:
    """What a text in JSON holds says nothing."""
    list(cut(Bytes(text.encode()), CutOptions(format="auto", records_path="item", batch_rows=9)))
