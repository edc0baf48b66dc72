"""What the publication of a run did with the rows that were in its tables before."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was published: the number of records, and what a replace did with the rows that were in each table.

    The rows are those before, those that it deleted, and absent rows that it kept. Each tuple has a number for each
    table of the dataset, or is empty when the run was no replace. A row is deleted when its record is absent from the
    source, a child row also when its record has fewer of them now. An absent row is kept when it may be the row of a
    rejected record.
    """

    records: int = 0
    rows_before: tuple[int, ...] = ()
    rows_deleted: tuple[int, ...] = ()
    rows_kept: tuple[int, ...] = ()
