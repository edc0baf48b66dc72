"""What the workers of a Dask cluster of this machine need, imported once by the process that they are forked from.

That process is a fork server of `multiprocessing`: it has no connection, no thread and no file of the command, so that
a fork shares nothing but modules. Each worker would take half a second to import them itself.
"""

import gc
import importlib
import os
import signal

from etl.optional_modules import without


def _stay() -> None:
    """Let the signals of a terminal or a service be for the command: it finishes the batches in hand."""
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
        os.register_at_fork(after_in_child=lambda number=number: signal.signal(number, signal.SIG_DFL))


def _import() -> None:
    gc.disable()  # Almost nothing of what is imported is ever freed.
    with without("numpy"), without("pandas"):
        importlib.import_module("distributed.nanny")
    importlib.import_module("etl.ingestion.pipeline.tasks")
    gc.freeze()  # No collection of a worker looks at it, and copies its pages.
    gc.enable()


_stay()
_import()
