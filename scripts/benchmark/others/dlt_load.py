"""dlt: its reader of NDJSON files into its PostgreSQL destination, all as it comes.

Usage: python dlt_load.py ADDRESS SCHEMA FILE
"""

import sys
import tempfile
from pathlib import Path

import dlt
from dlt.sources.filesystem import filesystem, read_jsonl


def main() -> None:
    """Load one file into a table `shipments` that dlt makes."""
    address, schema, source = sys.argv[1:]
    path = Path(source)
    with tempfile.TemporaryDirectory() as folder:
        pipeline = dlt.pipeline(
            pipeline_name="benchmark",
            pipelines_dir=folder,
            # dlt asks for a host and a password also where a socket needs none; `host` of the query is what counts.
            destination=dlt.destinations.postgres(address.replace("@/", ":none@localhost/", 1)),
            dataset_name=schema,
        )
        records = filesystem(bucket_url=path.parent.as_uri(), file_glob=path.name) | read_jsonl()
        pipeline.run(records.with_name("shipments")).raise_on_failed_jobs()


if __name__ == "__main__":
    main()
