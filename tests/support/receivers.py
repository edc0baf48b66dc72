"""What answers the requests of a collector, in the process of a test and without a database or a loader."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etl.collecting.access import Loopback
from etl.collecting.buffers import Keep, Limits
from etl.collecting.reading import SpoolStore
from etl.collecting.receiving import Place, Receiver
from etl.collecting.work import Loading, Work
from etl.database.connecting import Database
from etl.logs import Logs
from etl.settings import LoadSettings
from tests.support.definitions import SMALL_PARCELS

NOWHERE = Database(conninfo="host=/nowhere")


@contextmanager
def receiver_in(folder: Path) -> Iterator[Receiver]:
    """Give a receiver of small parcels, whose spool and definitions are in a folder."""
    (folder / "datasets").mkdir()
    (folder / "datasets" / "parcels.toml").write_text(SMALL_PARCELS)
    settings, store = LoadSettings(failed_dir=folder / "failed"), SpoolStore(folder=folder / "spool")
    work = Work(
        database=NOWHERE,
        config_dir=folder,
        store=store,
        settings=settings,
        keep=Keep(seconds=1, bytes=1),
        refresh_seconds=0,
        logs=Logs(format="json", level="error"),
    )
    place = Place(config_dir=folder, store=store, settings=settings, limits=Limits())
    receiver = Receiver(NOWHERE, place, Loopback(), Loading(work), 1 << 20)
    try:
        yield receiver
    finally:
        receiver.buffers.close()
