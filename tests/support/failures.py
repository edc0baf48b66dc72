"""The failed store of a site, as a test reads and edits it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etl import queries
from etl.ingestion.failed_store.store import temporary_ending


class Failures:
    """The waiting and former failures of a failed store, by the ledger and by the files."""

    def __init__(self, folder: Path, ask: Callable[..., list[tuple[Any, ...]]]) -> None:
        self.folder = folder
        self._ask = ask

    def temporary_ending(self) -> str:
        """Return the ending of the temporary names that commands give their files."""
        [(database,)] = self._ask(queries.load("ledger")["database_id"])
        return temporary_ending(database)

    def ids(self) -> list[str]:
        """List the ids of all failures in the ledger."""
        return [name for (name,) in self._ask("select id from etl.failures order by id")]

    def waiting(self) -> list[str]:
        """List the ids of the waiting failures, the oldest first."""
        query = "select id from etl.failures where state = 'pending' order by created_at, id"
        return [name for (name,) in self._ask(query)]

    def states(self) -> dict[str, str]:
        """Return the state of each failure, and check that its ID.json has the same."""
        states: dict[str, str] = dict(self._ask("select id, state from etl.failures"))
        for failure, state in states.items():
            assert self.details(failure)["state"] == state or state == "superseded"
        return states

    def path(self, failure: str) -> Path:
        """Return the file of a failure's records."""
        [path] = self.folder.glob(f"*/*/{failure}.ndjson")
        return path

    def details(self, failure: str) -> dict[str, Any]:
        """Return the ID.json of a failure."""
        details: dict[str, Any] = json.loads(self.path(failure).with_suffix(".json").read_bytes())
        return details

    def edit(self, failure: str, *changes: tuple[str, str]) -> None:
        """Change texts in the file of a failure."""
        text = self.path(failure).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.path(failure).write_text(text)

    def records(self, run: str | None) -> list[dict[str, Any]]:
        """Return each rejected record of a run, in order, with its `text` and the `kind` of its failure.

        The files are as they were written, and there are no others.
        """
        names = sorted(name for (name,) in self._ask("select id from etl.failures where run = %s", [run]))
        paths = sorted(self.folder.glob(f"*/{run}/*.json"))
        assert [path.stem for path in paths] == names
        found = []
        for path in paths:
            document = json.loads(path.read_bytes())
            lines = path.with_suffix(".ndjson").read_bytes()
            assert hashlib.sha256(lines).hexdigest() == document["sha256"]
            for record, line in zip(document["records"], lines.removesuffix(b"\n").split(b"\n"), strict=True):
                found.append(record | {"text": line, "kind": document["kind"]})
        found.sort(key=lambda each: int(each["record"]))
        assert len({each["record"] for each in found}) == len(found)
        return found
