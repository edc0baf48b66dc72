"""One load in the process of the tests, without the command line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from etl.database.connecting import Database
from etl.datasets import Dataset
from etl.errors import EtlError
from etl.ingestion.pipeline.job import Load, Stop
from etl.ingestion.pipeline.load import load
from etl.ingestion.pipeline.targets import Target
from etl.ingestion.summary import Summary
from etl.ingestion.values import Source
from etl.settings import Limit, LoadSettings, RetrySettings
from tests.support.in_process import connections_closed

_SETTINGS = LoadSettings(
    mode=None,
    format="auto",
    records=None,
    decoder="auto",
    workers=1,
    batch_rows=100,
    failed_dir=Path("failed"),
    atomic=False,
    allow_empty=False,
    max_rejected=Limit(percent=100),
    force=False,
    precalculate=False,
    retries=RetrySettings(attempts=1, base_seconds=0.001, cap_seconds=0.001),
)


def bring(source: Source, dataset: Dataset, database: Database, **asked: Any) -> tuple[Summary, EtlError | None]:
    """Load a source without a limit of rejects; `asked` are settings other than those above."""
    settings = replace(_SETTINGS, **asked)
    asked_for = Load(
        database=database, settings=settings, targets=[Target.of(dataset, settings.records, settings)], stop=Stop()
    )
    with connections_closed():
        [end] = load(source, asked_for)
        return end
