"""The commands as functions, for programs in Python: the same line, no output, no signal handler, no exit code.

Log events go to the logger `etl` of the standard library, which is silent unless the program gives it a handler.
"""

# `as` makes a name public for type checkers; `etl.__all__` lists the names for programs.
from etl.errors import EtlError as EtlError
from etl.library.connections import Connection as Connection
from etl.library.connections import connect as connect
from etl.library.defining import create as create
from etl.library.defining import infer as infer
from etl.library.loading import load as load
from etl.library.looking import failed as failed
from etl.library.looking import runs as runs
from etl.library.progress import Progress as Progress
from etl.library.replaying import replay as replay
from etl.library.restoring import precalculate as precalculate
from etl.library.restoring import undo as undo
from etl.library.results import Created as Created
from etl.library.results import FailedFile as FailedFile
from etl.library.results import FailedRecord as FailedRecord
from etl.library.results import Failures as Failures
from etl.library.results import Loaded as Loaded
from etl.library.results import Precalculated as Precalculated
from etl.library.results import Proposed as Proposed
from etl.library.results import Replays as Replays
from etl.library.results import Runs as Runs
from etl.library.results import Undone as Undone
