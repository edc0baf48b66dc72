"""No control character of a record, a key or a name reaches a terminal; files and pipes get data as it is."""

import json
import re
from pathlib import Path

import pytest

from etl.standard_streams import one_line, printable
from tests.support.site import Site
from tests.support.terminal import on_terminal

# Colours, and the cursor that a bar hides and shows.
OURS = re.compile(r"\x1b\[[0-9;]*[mAK]|\x1b\[\?25[hl]|\r")
HOSTILE = "\x1b]0;t\x07\x9b31m\x7f\u202e\u2066\u200f"
FORBIDDEN = set(HOSTILE) - set("]0;t31m")
NAME = f"a{HOSTILE}\nloaded b.json"

ODD = """
name = "odd"
mode = "append"
[[table]]
name = "logistics.odd"
[table.columns]
odd_id = { type = "text", required = true }
weight_kg = { type = "numeric", min = 0 }
note = "text"
"""


def _shown(site: Site, *words: str) -> tuple[int, str]:
    code, output = on_terminal(words, env=site.environment(), cwd=site.folder)
    text = OURS.sub("", output)
    assert not set(text) & FORBIDDEN, f"{words}: {text!r}"
    assert "\nloaded b.json" not in text, f"{words}: {text!r}"
    return code, text


@pytest.fixture
def hostile(site: Site) -> Site:
    """Give a site with a source whose name, keys and values hold escapes; one of its two records is rejected."""
    site.define(ODD)
    records = [{"odd_id": HOSTILE, "note": HOSTILE}, {"odd_id": HOSTILE, "weight_kg": -1, "note": HOSTILE}]
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    (site.folder / NAME).write_text(lines, encoding="utf-8")
    return site


def test_a_terminal_gets_no_control_characters(hostile: Site) -> None:
    """Each command that shows names, keys or records escapes them on a terminal, also its logs and its errors."""
    code, text = _shown(hostile, "--log-level", "debug", "load", "odd", NAME, "--no-precalculate")
    assert code == 1
    assert "a\\u001b]0;t\\u0007\\u009b31m" in text
    [run] = hostile.column("select run from etl.runs")
    [failure] = hostile.column("select id from etl.failures")
    for words in (
        ["failed", "list"],
        ["failed", "show", failure],
        ["failed", "show", failure, "--json"],
        ["runs", "list"],
        ["runs", "list", "--json"],
        ["runs", "show", run],
        ["runs", "trace", "logistics.odd", f"odd_id={HOSTILE}"],
        ["dataset", "check", "odd", NAME],
        ["dataset", "check", "odd", NAME, "--json"],
        ["dataset", "infer", NAME, "--name", "other"],
        ["failed", "discard", failure, "--reason", HOSTILE, "--json"],
    ):
        code, text = _shown(hostile, *words)
        assert code in {0, 1}, text
        assert "\\u001b" in text or "\\x1b" in text or "infer" in words, text


@pytest.mark.parametrize(
    "words",
    [
        ["load", "odd", f"missing{HOSTILE}"],
        ["load", f"odd{HOSTILE}", "a.json"],
        [f"load{HOSTILE}"],
        ["load", "odd", "a.json", f"--mode={HOSTILE}"],
        ["runs", "show", HOSTILE],
        ["failed", "show", HOSTILE],
        ["report", HOSTILE],
        ["--config-dir", HOSTILE, "runs", "list"],
        ["generate", HOSTILE, "--records", "1"],
    ],
)
def test_an_error_escapes_what_it_quotes(hostile: Site, words: list[str]) -> None:
    """An error that quotes an argument or a name shows its control characters as codes."""
    code, text = _shown(hostile, *words)
    assert code in {2, 3}
    assert "\\u001b" in text or "\\x1b" in text


def test_a_name_is_one_line_everywhere(hostile: Site) -> None:
    """A line feed in a name does not make a second line of a summary or an error, in a file either."""
    done = hostile.run("load", "odd", NAME, "--no-precalculate")
    assert done.stdout.splitlines()[0].startswith("loaded_with_rejects odd from a\\u001b")
    assert "\\nloaded b.json" in done.stdout
    missing = hostile.run("load", "odd", "none\nloaded b.json")
    assert missing.errors == ["cannot read none\\nloaded b.json: no such file or directory"]


def test_files_get_data_as_it_is(hostile: Site) -> None:
    """JSON and records that go to a file or a pipe keep every character."""
    hostile.run("load", "odd", NAME, "--no-precalculate")
    [failure] = hostile.column("select id from etl.failures")
    assert json.loads(hostile.run("runs", "list", "--json").stdout)["source"] == NAME
    assert "\u202e" in hostile.run("runs", "list", "--json").stdout
    assert "\x9b31m\x7f\u202e" in hostile.run("failed", "show", failure).stdout
    line = Path(hostile.folder / NAME).read_text(encoding="utf-8").splitlines()[1]
    [document] = hostile.run("failed", "show", failure, "--json").lines
    assert document["texts"] == [line]


def test_texts_are_escaped_as_in_json() -> None:
    """The codes are those of JSON, so that JSON on a terminal stays JSON; ordinary text is unchanged."""
    text = "".join(map(chr, [*range(0x20), 0x7F, 0x9B, 0x61C, 0x200E, 0x2028, 0x202E, 0x2069]))
    assert json.loads(f'"{one_line(text)}"') == text
    assert printable("a\tb\nc\rd") == "a\tb\nc\\rd"
    for ordinary in ("São Paulo", "👩‍👩‍👧", "日本", "a\\b", ""):
        assert one_line(ordinary) == ordinary
    assert one_line("\udcff") == "\\udcff"
