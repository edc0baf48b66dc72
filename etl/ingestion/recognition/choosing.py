"""The run that continues, by what a recognition decided, and the marks that a run gets.

Nothing is locked here: whoever asks holds the lock of the dataset's openings.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import psycopg

from etl.ingestion.fingerprints import Mark
from etl.ingestion.ledger import batches, marks, runs
from etl.ingestion.ledger.runs import KnownRun
from etl.ingestion.recognition.comparison import Recognised, Recognition

FULL_EXPORT_RECORDS = 1000
"""So many records that are those of another run are no accident."""


class Chosen(NamedTuple):
    """The known run that continues, if one does; and the decision."""

    run: KnownRun | None
    decided: Recognised


def covered(connection: psycopg.Connection, known: Mapping[int, KnownRun], compared: Recognition) -> dict[int, int]:
    """Return how many records of the source the runs have that have all of them, if there are several."""
    return {
        number: sum(
            min(last, compared.records) - first + 1
            for first, last in batches.record_ranges(connection, known[number].run)
            if first <= compared.records
        )
        for number in (compared.within if len(compared.within) > 1 else ())
        if number in known
    }


def replace_to_continue(
    connection: psycopg.Connection, dataset: str, decided: Recognised, known: Mapping[int, KnownRun], read: int
) -> KnownRun | None:
    """Return the replace that is the last load of the dataset and has exactly this source, or an unfinished one.

    `read` is the number of records that were read: more than a run has that ended at the end of a piece.
    """
    for number in sorted({*decided.within, *decided.whole}, reverse=True):
        run = known[number]
        if run.mode != "replace":
            continue
        last = marks.last(connection, dataset, number)
        is_whole = number in decided.whole
        is_equal = is_whole and last is not None and last.records == read and number in decided.within
        if (is_equal and runs.is_newest_replace(connection, number)) if run.is_finished else is_whole:
            return run
    return None


def forced(
    decided: Recognised, known: Mapping[int, KnownRun], *, is_atomic: bool, is_defined_by: Callable[[str], bool]
) -> KnownRun | None:
    """Return the newest unfinished run of the same source that the same command began with --force."""
    for number in sorted({*decided.within, *decided.whole}, reverse=True):
        run = known[number]
        if run.is_forced and not run.is_finished and run.is_atomic == is_atomic and is_defined_by(run.definition_hash):
            return run
    return None


def opening_marks(
    decided: Recognised, read: Sequence[Mark], end: Mark | None, compared: Recognition, *, is_at_end: bool
) -> list[Mark]:
    """Return the marks with which a new run begins, so that it is known again when it is killed.

    Of a long source that is new, those after the first one that no other run has are written with their batches: a
    source that agrees with all that is loaded of a run, and with nothing more, continues the run.
    """
    known = {*read, *([end] if end else [])}
    is_long = bool(read) and read[-1].records >= FULL_EXPORT_RECORDS
    if decided.kind == "new" and is_long and not is_at_end:
        missed = next((mark.records for mark in read if mark.records > decided.agrees), decided.agrees)
        anchor = compared.anchor(known).mark
        known = {mark for mark in read if mark.records <= max(missed, anchor.records)}
    return sorted(known)


def last_mark(connection: psycopg.Connection, dataset: str, chosen: Chosen, compared: Recognition) -> Mark | None:
    """Return the end of what is known of the run; of a new run, the end of a longer run that has its records."""
    if chosen.run is not None:
        old = compared.old(chosen.run.number)
        if old is not None:
            return Mark(old.ranges[-1].last_record, 0, 0) if old.ranges else old.hit
        return marks.last(connection, dataset, chosen.run.number)
    longer = [marks.last(connection, dataset, number) for number in chosen.decided.within]
    return next((last for last in longer if last is None or last.records > compared.records), None)


def marked_to(
    connection: psycopg.Connection,
    dataset: str,
    run: KnownRun,
    compared: Recognition,
    read: Sequence[Mark],
    known_to: Mark | None,
) -> int:
    """Return up to which record the run has marks; a run of an old version gets them when all of it agrees."""
    old = compared.old(run.number)
    if old is None:
        return known_to.records if known_to else 0
    if old.ranges:
        return 1 << 62  # It is known by its batches still, and they would count no more if it had marks.
    own = [mark for mark in read if mark.records < old.hit.records]
    known = [*own, *([old.end_mark] if old.end_mark else [])]
    marks.add(connection, dataset, run.number, known, compared.anchor(known))
    marks.forget_first_batch(connection, run.number)
    return old.hit.records
