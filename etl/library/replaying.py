"""`etl.replay`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Unpack

from etl import metrics
from etl.errors import BusyError, UsageError, gravest
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.pipeline.replay import ReplayFilter, ReplayResult, replay_all, select
from etl.library.arguments import ReplayOptions, require_kinds, settings_from, with_options
from etl.library.opening import opened
from etl.library.results import Precalculated, Replays
from etl.precalculation.refresh import RefreshResult


@with_options(ReplayOptions)
def replay(
    *ids: str,
    run: str | None = None,
    dataset: str | None = None,
    all: bool = False,
    allow_empty: bool = False,
    metrics_file: str | Path | None = None,
    database: str | None = None,
    config_dir: str | Path = "config",
    **options: Unpack[ReplayOptions],
) -> Replays:
    """Load records of the failed store again as `etl failed replay` does; return the results, with exit code 0 or 1.

    Name ids, or all pending files of a run or a dataset, or `all`. An id that is not pending any more is skipped. With
    `allow_empty` the rows of earlier loads may be gone from the tables.
    Raises EtlError otherwise. A BusyError is raised after the other files are replayed; call again to replay the rest.
    """
    if not (ids or run or dataset or all):
        raise UsageError("nothing is named to replay", hint="give ids, run, dataset or all=True")
    texts = {"id": ids, "run": run, "dataset": dataset, "database": database}
    require_kinds(texts=texts, paths={"config_dir": config_dir, "metrics_file": metrics_file})
    settings = settings_from(options, ReplayOptions)
    folder = Path(config_dir)
    with (
        metrics.Report(None if metrics_file is None else Path(metrics_file), "replay", dataset or "") as report,
        opened(database, folder, settings) as target,
        FailedStore(settings.failed_dir) as store,
    ):
        wanted = ReplayFilter(ids=ids, runs=(run,) if run else (), dataset=dataset, allow_empty=allow_empty)
        selection = select(wanted, target, folder, store)
        results = list(
            replay_all(selection, target, folder, store, settings.retries, precalculates=settings.precalculate)
        )
        replays = _replays(results)
        for each in replays.replayed:
            report.count(each.dataset, {"loaded": each.loaded, "rejected": each.rejected, "failed": each.failed})
        report.look_at(target)
        _require_free(results)
        report.exit_code = replays.exit_code
    return replays


def _replays(results: Sequence[object]) -> Replays:
    replayed = tuple(result for result in results if isinstance(result, ReplayResult))
    return Replays(
        exit_code=gravest(result.exit_code for result in replayed),
        replayed=replayed,
        precalculated=Precalculated(result for result in results if isinstance(result, RefreshResult)),
    )


def _require_free(results: Iterable[object]) -> None:
    """Raise the first error of a file that could not be replayed."""
    for result in results:
        if isinstance(result, BusyError | UsageError):
            raise result
