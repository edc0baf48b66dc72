"""What the publication of a run did with the rows that were in its tables before."""

from etl.quick_dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """The staged rows that were published of each table, and what a replace did with the rows that were there before.

    Each tuple has a number for each table of the dataset. Those about the rows that were there before are empty when
    the run was no replace: all of them, those that it deleted, and absent rows that it kept. A row is deleted when its
    record is absent from the source, a child row also when its record has fewer of them now. An absent row is kept when
    it may be the row of a rejected record. `rows_replaced` are the older versions that a merge wrote over, at most;
    None where nobody knows, and for another mode.
    """

    rows: tuple[int, ...] = ()
    rows_before: tuple[int, ...] = ()
    rows_deleted: tuple[int, ...] = ()
    rows_kept: tuple[int, ...] = ()
    rows_replaced: int | None = None
