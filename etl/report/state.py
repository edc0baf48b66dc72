"""How fresh aggregates are, in sentences. Pure."""

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from etl.precalculation.reading import Row
from etl.report import display

STALE_SECONDS = 24 * 3600
"""So old may the newest load be before a page warns: a nightly load, and no hour more."""


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sentence on the state of aggregates. A warning says what is missing and what to do."""

    text: str
    is_warning: bool = False


NO_FIGURES = Sentence(text="there are no figures, because no shipment with a time of creation is loaded")


@dataclass(frozen=True, kw_only=True)
class Age:
    """An instant of the data and its age when the page was made; `since` lets a browser tell the age of later.

    Only a load can be stale: what it brings may be of an earlier time.
    """

    what: str
    at: dt.datetime | str
    age: str = ""
    since: str = ""
    is_load: bool = False
    is_stale: bool = False


def of_one(freshness: Row) -> list[Sentence]:
    """Return the state of one computed aggregate."""
    sentences = [Sentence(text=f"complete to {instant(freshness['facts_through'] or freshness['refreshed_at'])}")]
    if freshness["pending_buckets"]:
        sentences.append(
            Sentence(text=f"pending buckets: {freshness['pending_buckets']:,} (etl precalculate)", is_warning=True)
        )
    if freshness["rejected_pending"]:
        sentences.append(
            Sentence(text=f"rejected records: {freshness['rejected_pending']:,} (etl failed list)", is_warning=True)
        )
    if freshness["future_event_at"] is not None:
        text = f"its facts have times in the future, up to {instant(freshness['future_event_at'])}"
        sentences.append(Sentence(text=text, is_warning=True))
    return sentences


def of_all(freshness: Sequence[Row], without_facts: Collection[str] = ()) -> list[Sentence]:
    """Return the state of all aggregates. An aggregate without facts cannot be computed, which is no fault."""
    never = [row["aggregate"] for row in freshness if row["refreshed_at"] is None]
    if len(never) == len(freshness) and set(never) <= set(without_facts):
        return [Sentence(text="nothing is loaded so far (etl load)")]
    if len(never) == len(freshness):
        return [Sentence(text="no aggregate was ever computed (etl precalculate)", is_warning=True)]
    missing = [name for name in never if name not in without_facts]
    behind = [row["aggregate"] for row in freshness if row["refreshed_at"] is not None and row["pending_buckets"]]
    sentences = [] if missing or behind else [Sentence(text="every aggregate equals its facts")]
    if behind:
        sentences.append(Sentence(text=f"behind their facts: {', '.join(behind)} (etl precalculate)", is_warning=True))
    if missing:
        sentences.append(Sentence(text=f"never computed: {', '.join(missing)} (etl precalculate)", is_warning=True))
    empty = [name for name in never if name in without_facts]
    if empty:
        sentences.append(Sentence(text=f"without facts so far: {', '.join(empty)}"))
    future = [row["aggregate"] for row in freshness if row["future_event_at"] is not None]
    if future:
        text = f"facts with times in the future: of {', '.join(future)}"
        sentences.append(Sentence(text=text, is_warning=True))
    # Aggregates share datasets: the sum over them would count a record more than once.
    rejected = max(row["rejected_pending"] for row in freshness)
    if rejected:
        text = f"rejected records: {rejected:,} or more are in the failed store (etl failed list)"
        sentences.append(Sentence(text=text, is_warning=True))
    return sentences


def ages(
    read_at: dt.datetime, newest_event: dt.datetime | str | None, newest_load: dt.datetime | str | None
) -> list[Age]:
    """Return how old the newest event and the newest load are, as far as they are known."""
    found = []
    for what, at, is_load in (("data to", newest_event, False), ("newest load", newest_load, True)):
        if isinstance(at, str):
            found.append(Age(what=what, at=at))
        elif at is not None:
            seconds = (read_at - at).total_seconds()
            is_stale = is_load and seconds >= STALE_SECONDS
            found.append(
                Age(
                    what=what, at=at, age=display.age(seconds), since=at.isoformat(), is_load=is_load, is_stale=is_stale
                )
            )
    return found


def instant(value: dt.datetime | str | None) -> str:
    """Return an instant to the minute; one that Python's calendar lacks as the server writes it."""
    if isinstance(value, str):
        return display.plain(value)
    return f"{value:%Y-%m-%d %H:%M} UTC" if value else "unknown"
