"""Records that tests load, and the files that contain them."""

import json
from pathlib import Path
from typing import Any

from etl.generate import generate


def write_shipments(path: Path, records: int, *, seed: int = 7, bad: float = 0.01) -> Path:
    """Write generated shipments as one array."""
    with path.open("wb") as file:
        generate("shipments", records=records, output=file, seed=seed, bad=bad)
    return path


def vehicles(first: int, last: int) -> list[dict[str, Any]]:
    """Return the vehicles with these numbers."""
    return [{"vehicle_id": f"V{number:03}", "odometer_km": number} for number in range(first, last + 1)]


def as_lines(*records: object) -> str:
    """Return records as NDJSON; a text is a line already."""
    return "".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records)
