"""An interrupted atomic run continues: its staged rows are held against the ledger before any is published.

A dump may have left the staging tables out, or somebody emptied them. Batches whose rows are not there as they were
entered load again.
"""

import structlog

from etl.ingestion.ledger import batches
from etl.ingestion.pipeline.attempts import OpenRun

log = structlog.get_logger(__name__)


def withdraw_lost(run: OpenRun) -> None:
    """Remove from the ledger the batches whose staged rows are not all there, so that their records load again.

    If keys of rejected records are gone that a replace needs, the batches with rejected records load again, too. What
    is left of these batches is removed, and so are rows that the ledger does not know. The session holds the run.
    """
    connection = run.attempt.session.connection()
    with connection.transaction():
        run.copier.prepare_rows(connection)
        entered = batches.staged(connection, run.id)
        staged = run.copier.staged_batches(connection)
        none = tuple(0 for _ in run.context.dataset.tables)
        lost = {offset for offset, rows in entered.items() if rows != staged.get(offset, none)}
        unknown = [offset for offset in staged if offset not in entered]
        if run.copier.lacks_refused(connection):
            lost.update(batches.with_refused(connection, run.id) & entered.keys())
            run.copier.forget_refused(connection)
        if lost or unknown:
            run.copier.withdraw(connection, [*lost, *unknown])
            batches.withdraw(connection, run.id, list(lost))
            # A key may have been noted by a batch that is gone, and be that of a later one, too.
            run.copier.prepare_rows(connection)
    if lost:
        log.warning("staged_rows_lost", run=run.id, batches=len(lost), hint="their records load again")
    if unknown:
        log.warning("unknown_staged_rows_removed", run=run.id, batches=len(unknown))
