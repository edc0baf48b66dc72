"""The process that the workers of a Dask cluster of this machine are forked from. Imports nothing of Dask itself."""

import multiprocessing
from contextlib import suppress
from multiprocessing import forkserver

_WORKER_MODULE = "etl.ingestion.pipeline.dask_worker"


def begin() -> None:
    """Start the process, unless it runs, and let it import what workers need while this one does something else."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([_WORKER_MODULE])
    with suppress(OSError):  # The start of the first worker reports it.
        forkserver.ensure_running()
