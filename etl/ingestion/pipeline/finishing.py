"""The end of a source that was read to its end: its runs become visible and are finished, or the reason why not.

The error of one target is recorded as that target's; the others are finished all the same. Atomic runs are the
exception: those of one source become visible together or not at all.
"""

from collections.abc import Sequence

from etl.ingestion.pipeline.attempts import OpenRun, ending
from etl.ingestion.sources.stream import Stream


def finish(stream: Stream, open_runs: Sequence[OpenRun]) -> None:
    """Finish the runs of a source: the atomic ones together, each other by itself.

    A run that a limit cut off is judged, and stays open.
    """
    for run in open_runs:
        if not run.attempt.progress.is_cut:
            run.attempt.progress.bytes_read = stream.position
    together = [run for run in open_runs if run.attempt.target.is_atomic]
    alone = [[run] for run in open_runs if not run.attempt.target.is_atomic]
    for group in [together] * bool(together) + alone:
        with ending([run.attempt for run in group]):
            _finish_group(stream, group)


def _finish_group(stream: Stream, group: Sequence[OpenRun]) -> None:
    """Finish runs that become visible together.

    Raises the error that ended one of them before.
    """
    error = next((run.attempt.progress.error for run in group if run.attempt.progress.error), None)
    if error is not None:
        raise error
    if any(run.attempt.progress.is_cut for run in group):
        for run in group:
            progress = run.attempt.progress
            progress.is_cut = True
            run.attempt.judge_rejected(progress.rejected, progress.read, at_end=True)
        return
    recorder = group[0].recorder
    group[0].retrying(recorder.publish, stream, group)
