"""Requests for Elasticsearch's bulk API: an action and its document are one record, at the offset of the action."""

import io
import json
import random
from typing import Any

import pytest

from etl.ingestion.sources.bulk import BulkReader, is_bulk
from tests.support.site import Site

DEFINITION = """
name = "orders"
mode = "merge"
key = ["id"]
delete_if = { "$action" = "delete" }
[[table]]
name = "lab.orders"
[table.columns]
id = { path = "$action._id", type = "text", required = true }
action = { path = "$action", type = "text" }
city = "text"
kg = "integer"
[[table]]
name = "lab.items"
each = "items"
[table.columns]
id = { path = "$action._id", type = "text" }
sku = "text"
"""

INDEX = b'{"index":{"_index":"orders","_id":"1"}}\n'


def _random_request(chance: random.Random, line_end: str) -> tuple[str, list[dict[str, Any]]]:
    """Return lines, and the records that they mean."""
    lines, records = [], []
    for number in range(chance.randrange(1, 9)):
        action, metadata = chance.choice(["index", "create", "update", "delete"]), {"_id": str(number)}
        blank = chance.choice(["", " "])
        head = json.dumps({action: metadata}, separators=(",", f":{blank}"))
        if action == "delete":
            lines.append(f"{head}{blank}{line_end}")
            records.append({action: metadata})
            continue
        document: dict[str, Any] = chance.choice(
            [{}, {"a": '}{\\"', "index": 7}, {"a": [{"b": None}], "doc": {"ü": 1}}]
        )
        options: dict[str, Any] = chance.choice(
            [{}, {"doc_as_upsert": True}, {"_source": [{"doc": {}}], "detect_noop": 0}]
        )
        parts = [*options.items(), ("doc", document)]
        sent = dict(chance.sample(parts, len(parts))) if action == "update" else document
        text = json.dumps(sent, ensure_ascii=chance.random() < 0.5)
        lines.append(f"{head}{blank}{line_end}{chance.choice(['', line_end])}{blank}{text}{line_end}")
        records.append({f"${action}": metadata} | document)
    text = "".join(lines)
    return text[: -len(line_end)] if chance.random() < 0.3 else text, records


def test_a_pair_becomes_a_line_of_the_same_length() -> None:
    """Whatever the pairs are and in which parts they are read, each record begins at the byte of its action."""
    chance = random.Random(1)
    for _ in range(2_000):
        text, records = _random_request(chance, chance.choice(["\n", "\r\n"]))
        sent = text.encode()
        reader = BulkReader(io.BufferedReader(io.BytesIO(sent)), lambda: False)
        parts = iter(lambda: reader.read1(chance.randrange(1, 40)), b"")  # noqa: B023 - read in this turn
        made = b"".join(parts)
        assert len(made) == len(sent)
        assert [json.loads(line) for line in made.splitlines() if line.strip()] == records


class _Pipe:
    """Gives these parts; an empty one is a pause."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.is_paused = False

    def read1(self, _size: int, /) -> bytes:
        """Return the next part."""
        part = self.parts.pop(0) if self.parts else b""
        self.is_paused = not part and bool(self.parts)
        return part


def test_a_pause_between_an_action_and_its_document_parts_no_record() -> None:
    """An action waits for its document while a pipe pauses; at the end an action without one stays as it is."""
    pipe = _Pipe(INDEX, b"", b'{"a":1}\n', INDEX)
    reader = BulkReader(pipe, lambda: pipe.is_paused)
    assert reader.read1(100) == b""
    assert json.loads(reader.read1(100)) == {"$index": {"_index": "orders", "_id": "1"}, "a": 1}
    assert reader.read1(100) == INDEX


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (INDEX + b'{"order": 1}', True),
        (b'{ "create" : {} }\r\n{"order": 1}\r\n', True),
        (b'{"delete":{"_id":"1"}}\n' + INDEX, True),
        (b'{"delete":{"_id":"1"}}', True),
        (INDEX + INDEX, False),
        (INDEX + b"[1]\n", False),
        (b'{"index":{"name":"x"}}\n{"index":{"name":"y"}}\n', False),
        (b'{"index":{"_id":"1"},"a":1}\n{"a":1}\n', False),
        (b'{"delete":{"_id":"1"}}\n{"a":1}\n', False),
        (b'{"index":1}\n{"a":1}\n', False),
    ],
)
def test_only_actions_with_documents_are_recognised(head: bytes, expected: bool) -> None:
    """The first line has one action with members of an action only, and its document or another action follows."""
    assert is_bulk(head) is expected


def test_a_request_is_loaded_as_records(site: Site) -> None:
    """Documents become rows and deletions delete; offsets are those of the actions; a refused record is replayed."""
    site.define(DEFINITION)
    lines = [
        '{"index":{"_index":"orders","_id":"1"}}\n{"city":"Bonn","kg":1,"items":[{"sku":"a"}]}\n',
        '{"index":{"_id":"2"}}\n{"city":"Köln","kg":"many"}\n',
        '{"delete":{"_index":"orders","_id":"1"}}\n',
        '{"create":{"_id":"3"}}\n{}\n',
        '{"update":{"_id":"3"}}\n{"doc":{"kg":4},"doc_as_upsert":true}\n',
    ]
    (site.folder / "bulk.ndjson").write_text("".join(lines))
    done = site.load("orders", "bulk.ndjson", "--no-precalculate")
    assert {name: done["records"][name] for name in ("read", "loaded", "rejected", "deleted")} == {
        "read": 5,
        "loaded": 4,
        "rejected": 1,
        "deleted": 1,
    }
    assert done["bytes_read"] == (site.folder / "bulk.ndjson").stat().st_size
    [failure] = site.failures.waiting()
    [at] = site.failures.details(failure)["records"]
    assert (at["record"], at["offset"]) == (2, len(lines[0].encode()))
    path = site.failures.path(failure)
    path.write_text(path.read_text().replace('"many"', "5"))
    assert site.run("failed", "replay", failure, "--no-precalculate").returncode == 0
    rows = [("2", "index", "Köln", 5), ("3", "update", None, 4)]
    assert site.ask("select id, action, city, kg from lab.orders order by id") == rows
    assert site.load("orders", "bulk.ndjson", "--no-precalculate")["status"] == "already_loaded"
    names = [f"{number}.ndjson" for number in range(3)]
    for name in names:
        (site.folder / name).write_text(f'{{"index":{{"_id":"{name}"}}}}\n{{"kg":1}}\n')
    assert site.run("load", "orders", *names, "--no-precalculate").returncode == 0
    assert site.value("select count(*) from lab.orders where kg = 1") == 3
    proposed = site.run("dataset", "infer", "bulk.ndjson", "--name", "proposed").stdout
    assert 'action_id = { path = "$action._id", type = "text" }' in proposed
    assert '`delete_if = { "$action" = "delete" }`' in proposed
