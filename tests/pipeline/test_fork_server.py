"""The process that workers of a Dask cluster of this machine are forked from."""

import gc
import json
import multiprocessing
import subprocess
import sys
from multiprocessing.connection import Connection

from etl.ingestion.pipeline import fork_server
from tests.support.checkout import ROOT

_PROGRAM = "from tests.pipeline.test_fork_server import print_modules; print_modules()"


def _send_modules(pipe: "Connection[dict[str, object], None]") -> None:
    pipe.send({"modules": [*sys.modules], "frozen": gc.get_freeze_count(), "collects": gc.isenabled()})


def print_modules() -> None:
    """Print the modules of this process after the fork server began, and those of a process that it forks."""
    fork_server.begin()
    ours = [*sys.modules]
    context = multiprocessing.get_context("forkserver")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_send_modules, args=(sending,))
    process.start()
    sys.stdout.write(json.dumps({"ours": ours, "forked": receiving.recv()}))
    process.join()


def test_workers_are_forked_with_their_modules() -> None:
    """A forked process has imported what a worker needs; the process that let it begin has imported nothing for it."""
    ended = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    found = json.loads(ended.stdout)
    needed = {"distributed.nanny", "distributed.worker", "etl.ingestion.pipeline.tasks"}
    assert needed <= set(found["forked"]["modules"])
    assert not needed & set(found["ours"])
    assert not {"numpy", "pandas"} & set(found["forked"]["modules"])
    assert found["forked"]["frozen"] > 10_000
    assert found["forked"]["collects"]
