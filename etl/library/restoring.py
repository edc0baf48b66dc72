"""`etl.precalculate`, which brings aggregates up to date, and `etl.undo`, which takes a run back."""

from pathlib import Path

from etl.database import connecting
from etl.errors import InternalError, combined
from etl.ingestion.pipeline import undoing
from etl.ingestion.pipeline.undoing import UndoRequest, UndoResult
from etl.library.arguments import require_kinds
from etl.library.opening import opened
from etl.library.results import Precalculated, Undone
from etl.precalculation import catalogue
from etl.precalculation.refresh import RefreshResult, refresh_all


def precalculate(
    *aggregates: str, database: str | None = None, config_dir: str | Path = "config", full: bool = False
) -> Precalculated:
    """Bring all aggregates, or the named ones, up to date with the facts as `etl precalculate` does.

    Raises EtlError.
    """
    require_kinds(texts={"aggregate": aggregates, "database": database}, paths={"config_dir": config_dir})
    folder = Path(config_dir)
    chosen = catalogue.choose(aggregates, folder)
    with opened(database, folder) as target, connecting.connect(target, "etl:precalculate") as connection:
        done = Precalculated(refresh_all(connection, chosen, run=None, full=full))
    wrong = () if aggregates else tuple(catalogue.look(folder)[1].values())
    if wrong:
        raise combined(wrong)
    return done


def undo(
    run: str,
    *,
    dry_run: bool = False,
    delete_rows: bool = False,
    precalculate: bool = True,
    database: str | None = None,
    config_dir: str | Path = "config",
) -> Undone:
    """Take a run back as `etl runs undo` does: delete its rows, and forget its source, which then loads again.

    `latest` is the newest run. Raises EtlError.
    """
    require_kinds(texts={"run": run, "database": database}, paths={"config_dir": config_dir})
    folder = Path(config_dir)
    request = UndoRequest(run=run, deletes_merged=delete_rows, is_dry_run=dry_run)
    with opened(database, folder, creates=False) as target:
        results = list(undoing.undo(request, target, folder, precalculates=precalculate))
    refreshed = Precalculated(each for each in results if isinstance(each, RefreshResult))
    for each in results:
        if isinstance(each, UndoResult):
            return Undone(result=each, precalculated=refreshed)
    raise InternalError("an undo returned no result")
