"""`etl generate`."""

from pathlib import Path
from typing import Literal

import click

from etl.cli.groups import Command
from etl.cli.options import json_option, option, print_json, print_note
from etl.errors import UsageError, cannot_write
from etl.generate import DATASETS, generate
from etl.standard_streams import binary_output


@click.command(
    "generate", cls=Command, epilog="Example: etl generate shipments --records 200000 --output shipments.json"
)
@click.argument("dataset", metavar="DATASET")
@option("--records", type=click.IntRange(0), required=True, help="Number of records.")
@option("--output", metavar="FILE", default="-", show_default=True, help="File to write; - for standard output.")
@option("--format", type=click.Choice(["array", "ndjson"]), default="array", show_default=True, help="Structure.")
@option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same bytes.")
@option("--bad", metavar="P%", default="0%", show_default=True, help="Share of records that get one of ten faults.")
@json_option
def command(
    dataset: str,
    records: int,
    output: str,
    format: Literal["array", "ndjson"],
    seed: int,
    bad: str,
    as_json: bool,
) -> None:
    """Write sample data: shipments, vehicle_logs, vehicles or tracking_events."""
    if dataset not in DATASETS:
        raise UsageError(f"unknown sample data {dataset!r}", hint=f"known: {', '.join(DATASETS)}")
    share = _share(bad)
    if as_json and output == "-":
        raise UsageError("--json prints where the records would go", hint="give a file with --output")
    try:
        with binary_output() if output == "-" else Path(output).open("wb") as file:
            made = generate(dataset, records=records, output=file, format=format, seed=seed, bad=share)
    except OSError as error:
        raise cannot_write(output, error) from error
    if as_json:
        spoiled_by = {fault: count for fault, count in made.bad.items() if count}
        print_json([{"dataset": dataset, "records": made.records, "output": output, "spoiled": spoiled_by}])
        return
    spoiled = ", ".join(f"{count:,} {fault}" for fault, count in made.bad.items() if count)
    print_note(f"{made.records:,} records written to {output}{f'; spoiled: {spoiled}' if spoiled else ''}")


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"--bad expects a percentage such as 1%, got {text!r}")
    return share
