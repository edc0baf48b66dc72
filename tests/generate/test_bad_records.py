import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from psycopg import sql

from etl import generate
from etl.datasets import Dataset, find
from tests.support.checkout import ROOT
from tests.support.commands import RunEtl
from tests.support.faults import Connection
from tests.support.site import Site

SQLSTATES = {
    "wrong_type": "22P02",
    "missing_required": "23502",
    "bad_date": "22008",
    "no_instant": "22007",
    "negative_weight": "23514",
    "number_too_large": "22003",
    "nul_in_text": "22021",
    "text_over_length": "23514",
    "null_key": "23502",
    "array_for_text": "22P02",
}
"""What PostgreSQL would say to each fault; a duplicate key is none, for a merge resolves it."""

REASONS = {
    "wrong_type": "expected a",
    "missing_required": "expected a value, got none",
    "bad_date": "the day does not exist in the calendar",
    "no_instant": "expected an ISO 8601 time",
    "negative_weight": "expected",
    "number_too_large": "the number",
    "nul_in_text": "a NUL character cannot be stored in text",
    "text_over_length": "expected at most",
    "null_key": "expected a value, got none",
    "array_for_text": "expected text, got an array",
}


def _generated(
    dataset: str, size: int, bad: float, format: Literal["array", "ndjson"]
) -> tuple[bytes, Mapping[str, int]]:
    output = io.BytesIO()
    generated = generate.generate(dataset, records=size, output=output, seed=11, bad=bad, format=format)
    return output.getvalue(), generated.bad


def _records(content: bytes) -> list[bytes]:
    """Return the text of each record; each line has one record."""
    return [line.removesuffix(b",") for line in content.splitlines() if line.startswith(b"{")]


def _faults(names: tuple[str, ...], clean: list[bytes], spoiled: list[bytes]) -> dict[int, str]:
    """Return the fault of each record that differs, by number: the generator takes its faults in turn."""
    differing = [number for number, (old, new) in enumerate(zip(clean, spoiled, strict=True), 1) if old != new]
    return {number: names[turn % len(names)] for turn, number in enumerate(differing)}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _leaves(member, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for place, element in enumerate(value):
            yield from _leaves(element, f"{path}[{place}]")
    else:
        yield path, value


def _place(dataset: Dataset, old: bytes, new: bytes) -> tuple[str, str]:
    """Return table and column of the only value that differs between two versions of a record."""
    before, after = dict(_leaves(json.loads(old))), dict(_leaves(json.loads(new)))
    [path] = [path for path in before if path not in after or before[path] != after[path]]
    first, *children = dataset.tables
    head, bracket, _ = path.partition("[")
    if not bracket:
        [name] = [column.name for column in first.columns if column.path == path]
        return first.name, name
    [child] = [table for table in children if table.each == (head,)]
    [name] = [column.name for column in child.columns if column.path == path.partition("].")[2]]
    return child.name, name


@pytest.mark.parametrize("dataset", generate.DATASETS)
@pytest.mark.parametrize("format", ["array", pytest.param("ndjson", marks=pytest.mark.slow)])
def test_each_fault_of_each_dataset_is_found(
    site: Site,
    dataset: str,
    format: Literal["array", "ndjson"],
) -> None:
    """Only the spoiled records are rejected, with the place and SQLSTATE of their fault; the others are loaded."""
    definition = find(dataset, ROOT / "config")
    clean, _ = _generated(dataset, 700, 0, format)
    content, counts = _generated(dataset, 700, 0.2, format)
    originals, records = _records(clean), _records(content)
    faults = _faults(generate.faults(dataset), originals, records)
    assert {name: list(faults.values()).count(name) for name in counts} == counts
    assert min(counts.values()) > 5
    (site.folder / "feed").write_bytes(content)
    summary = site.load(dataset, "feed", "--batch-rows", "300", "--max-rejected", "50%", "--no-precalculate")
    assert (summary["exit_code"], summary["status"]) == (1, "loaded_with_rejects")
    bad = {number: fault for number, fault in faults.items() if fault != "duplicate_key"}
    assert summary["records"] == {
        "read": 700,
        "loaded": 700 - len(bad),
        "unchanged": 0,
        "rejected": len(bad),
        "failed": 0,
        "skipped": 0,
        "withheld": 0,
        "pending": len(bad),
    }
    rejected = {record["record"]: record for record in site.failures.records(summary["run"])}
    assert sorted(rejected) == sorted(bad)
    key = definition.tables[0].column(definition.key[0])
    assert key is not None
    for number, fault in bad.items():
        record, text = rejected[number], records[number - 1]
        table, column = _place(definition, originals[number - 1], text)
        # A day alone is no instant, whether it exists or not.
        expected = "no_instant" if fault == "bad_date" and column.endswith("_at") else fault
        assert (record["table"], record["column"], record["sqlstate"]) == (table, column, SQLSTATES[expected]), fault
        assert REASONS[expected] in record["reason"]
        assert record["text"] == text == content[record["offset"] : record["offset"] + len(text)]
        assert record["key"] == json.loads(text).get(key.path)
    good = [json.loads(text) for number, text in enumerate(records, 1) if number not in bad]
    newest = {record[key.path]: record for record in good}  # generated duplicates are newer and come later
    _check_facts(site.connection, definition, newest)


def _check_facts(connection: Connection, definition: Dataset, newest: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that the tables have the newest version of each record, with its child rows."""
    first, *children = definition.tables
    key = sql.Identifier(definition.key[0])
    rows = connection.execute(sql.SQL("select {}, to_jsonb(t) from {} t").format(key, first.identifier)).fetchall()
    assert {row[0] for row in rows} == set(newest)
    for row_key, row in rows:
        for column in first.columns:
            value: Any = newest[row_key]
            for name in column.path.split("."):
                value = value[name] if value is not None and name in value else None
            if column.type in {"text", "numeric", "integer", "date"}:
                assert row[column.name] == value, (row_key, column.name)
    for child in children:
        count = sql.SQL("select count(*) from {}").format(child.identifier)
        found = cast(tuple[int], connection.execute(count).fetchone())
        assert found[0] == sum(len(record.get(child.each[0]) or ()) for record in newest.values())


def test_the_commands_agree_on_bad_records(run_etl: RunEtl, tmp_path: Path) -> None:
    """`etl generate --bad` and `etl load` agree on the number of bad records, and `failed list` shows all of them."""
    done = run_etl(
        "generate", "shipments", "--records", "2000", "--bad", "2%", "--format", "ndjson", "--output", "feed.ndjson"
    )
    assert done.returncode == 0
    done = run_etl("load", "shipments", "feed.ndjson", "--json")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    records = json.loads(done.stdout.splitlines()[0])["records"]
    assert 20 <= records["rejected"] <= 60
    assert records["loaded"] + records["rejected"] == records["read"] == 2_000
    listed = [json.loads(line) for line in run_etl("failed", "list", "--json").stdout.splitlines()]
    assert sum(each["count_records"] for each in listed) == records["rejected"]
