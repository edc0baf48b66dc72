"""The spool of a site, and loaders of it in this process."""

import json
from pathlib import Path

from etl.collecting.buffers import Accepted, Keep, Limits, Reader
from etl.collecting.events import events_of
from etl.collecting.loading import StreamLoader
from etl.collecting.reading import SpoolReader
from etl.collecting.spool import Spool
from etl.database.connecting import Database
from etl.datasets import Dataset
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.pipeline.job import Load, Stop
from etl.ingestion.pipeline.targets import Target
from etl.settings import LoadSettings, RetrySettings
from tests.support.site import Site

KEEP = Keep(seconds=3600, bytes=1 << 30)
NOTHING = Keep(seconds=0, bytes=1 << 30)


def spool_of(folder: Path, dataset: str) -> Path:
    """Return the spool of a dataset in the folder of a site."""
    return folder / "spool" / dataset


def loader_of(conninfo: str, folder: Path, dataset: Dataset, keep: Keep = KEEP) -> StreamLoader:
    """Return a loader of the spool in the folder of a site."""
    return loader_of_reader(conninfo, folder, dataset, SpoolReader(folder / "spool"), keep)


def loader_of_reader(conninfo: str, folder: Path, dataset: Dataset, reader: Reader, keep: Keep = KEEP) -> StreamLoader:
    """Return a loader of what a reader reads, with a failed store in the folder of a site."""
    retries = RetrySettings(attempts=1, base_seconds=0.001, cap_seconds=0.001)
    settings = LoadSettings(failed_dir=folder / "failed", retries=retries)
    target = Target.of(dataset, None, settings)
    load = Load(database=Database(conninfo=conninfo), settings=settings, targets=[target], stop=Stop())
    store = FailedStore(folder / "failed")
    store.prepare()
    return StreamLoader(load, target, reader, store, keep)


def send(site: Site, dataset: str, *bodies: object) -> list[Accepted]:
    """Write events into the spool of a site, as a collector that ends at once."""
    spool = Spool(spool_of(site.folder, dataset), Limits(segment_seconds=0))
    accepted = [spool.submit(events_of(json.dumps(body).encode())).result() for body in bodies]
    spool.close()
    return accepted


def load_all(loader: StreamLoader) -> int:
    """Load until there is nothing more, and return the number of groups."""
    groups = 0
    while loader.load_next() is not None:
        groups += 1
    return groups
