"""An export that holds the records of several datasets, and loads of it."""

import io
import json
from typing import Any

from etl.generate import generate
from tests.support.commands import Ended
from tests.support.site import Site

BOTH = "deliveries,vehicle_logs"
TWO = "shipments,vehicle_logs"
FILE = "export.json"

LOADED = {"deliveries": ("loaded_with_rejects", 1), "vehicle_logs": ("loaded_with_rejects", 1)}


def _records(dataset: str, records: int, bad: float) -> bytes:
    written = io.BytesIO()
    generate(dataset, records=records, output=written, seed=7, bad=bad)
    return written.getvalue().strip()


def document(deliveries: int, logs: int, bad: float = 0.03) -> bytes:
    """Return an export: the array of the dataset that is named second comes first."""
    members = {
        "meta": b'{"made": "2026-11-21", "counts": [1, 2]}',
        "vehicle_logs": _records("vehicle_logs", logs, bad),
        "deliveries": _records("shipments", deliveries, bad),
        "end": b"[]",
    }
    return b"{%s}\n" % b",\n".join(b'"%s": %s' % (name.encode(), text) for name, text in members.items())


def load_export(
    site: Site,
    *options: str,
    datasets: str = BOTH,
    source: str = FILE,
    stdin: str = "",
    conninfo: str | None = None,
) -> Ended:
    """Load from the folder of the site, in batches of ten and without its aggregates unless options say otherwise."""
    words = ["load", datasets, source, "--json", "--batch-rows", "10", "--no-precalculate"]
    env = {"ETL_WORKERS": "1", "ETL_MAX_REJECTED": "50%"}
    return site.run(*words, *options, env=env, stdin=stdin, conninfo=conninfo)


def summaries_of(ended: Ended) -> dict[str, dict[str, Any]]:
    """Return the summaries of a source by their datasets."""
    return {summary["dataset"]: summary for summary in ended.summaries}


def ends_of(ended: Ended) -> dict[str, tuple[str, int]]:
    """Return status and exit code of each dataset."""
    return {name: (each["status"], each["exit_code"]) for name, each in summaries_of(ended).items()}


def put(site: Site, content: bytes, name: str = FILE) -> None:
    """Put a file into the folder of the site."""
    (site.folder / name).write_bytes(content)


def delivery(number: int) -> dict[str, Any]:
    """Return a good delivery."""
    return {"shipment_id": f"S{number}", "created_at": "2026-01-01T00:00:00Z"}


def log(number: int) -> dict[str, Any]:
    """Return a good vehicle log."""
    return {"log_id": f"L{number}", "trip_date": "2026-01-01"}


def put_records(site: Site, deliveries: int, logs: int, bad: int = 0) -> None:
    """Put an export there whose last deliveries can never load."""
    records = [delivery(number) for number in range(deliveries - bad)] + [{"shipment_id": None}] * bad
    put(site, json.dumps({"vehicle_logs": [*map(log, range(logs))], "deliveries": records}).encode())
