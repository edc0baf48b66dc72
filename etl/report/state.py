"""How far aggregates follow their facts, in sentences. Pure."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from etl.precalculation.reading import Row


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One thing to know of the state of the aggregates; a warning says what is missing and what to do."""

    text: str
    is_warning: bool = False


def of_one(freshness: Row) -> list[Sentence]:
    """Tell the state of one aggregate that was computed."""
    found = [Sentence(text=f"complete to {instant(freshness['facts_through'] or freshness['refreshed_at'])}")]
    if freshness["pending_buckets"]:
        found.append(
            Sentence(text=f"pending buckets: {freshness['pending_buckets']:,} (etl precalculate)", is_warning=True)
        )
    if freshness["rejected_pending"]:
        found.append(
            Sentence(text=f"rejected records: {freshness['rejected_pending']:,} (etl failed list)", is_warning=True)
        )
    return found


def of_all(freshness: Sequence[Row]) -> list[Sentence]:
    """Tell the state of all aggregates."""
    never = [row["aggregate"] for row in freshness if row["refreshed_at"] is None]
    if len(never) == len(freshness):
        return [Sentence(text="no aggregate was ever computed (etl precalculate)", is_warning=True)]
    loaded, happened = (
        max((row[name] for row in freshness if row[name] is not None), default=None)
        for name in ("facts_through", "newest_event_at")
    )
    newest = f"newest load {instant(loaded)}, newest event {instant(happened)}"
    behind = [row["aggregate"] for row in freshness if row["refreshed_at"] is not None and row["pending_buckets"]]
    found = [Sentence(text=newest if never or behind else f"every aggregate equals its facts: {newest}")]
    if behind:
        found.append(Sentence(text=f"behind their facts: {', '.join(behind)} (etl precalculate)", is_warning=True))
    if never:
        found.append(Sentence(text=f"never computed: {', '.join(never)} (etl precalculate)", is_warning=True))
    # Aggregates share datasets: the sum over them would count a record more than once.
    rejected = max(row["rejected_pending"] for row in freshness)
    if rejected:
        text = f"rejected records: {rejected:,} or more wait in the failed store (etl failed list)"
        found.append(Sentence(text=text, is_warning=True))
    return found


def instant(value: dt.datetime | None) -> str:
    """Return an instant to the minute."""
    return f"{value:%Y-%m-%d %H:%M} UTC" if value else "unknown"
