"""The commands as functions, for programs in Python: the same line, no output, no signal handler, no exit code.

Log events go to the logger `etl` of the standard library, which is silent unless the program gives it a handler.
"""

from etl.errors import EtlError
from etl.library.connections import Connection, connect
from etl.library.defining import create, infer
from etl.library.loading import load
from etl.library.looking import failed, runs
from etl.library.progress import Progress
from etl.library.replaying import replay
from etl.library.restoring import precalculate, undo
from etl.library.results import (
    Created,
    FailedFile,
    FailedRecord,
    Failures,
    Loaded,
    Precalculated,
    Proposed,
    Replays,
    Runs,
    Undone,
)

__all__ = [
    "Connection",
    "Created",
    "EtlError",
    "FailedFile",
    "FailedRecord",
    "Failures",
    "Loaded",
    "Precalculated",
    "Progress",
    "Proposed",
    "Replays",
    "Runs",
    "Undone",
    "connect",
    "create",
    "failed",
    "infer",
    "load",
    "precalculate",
    "replay",
    "runs",
    "undo",
]
