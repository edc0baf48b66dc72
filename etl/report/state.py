"""How fresh aggregates are, in sentences. Pure."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from etl.precalculation.reading import Row
from etl.report import display, times


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sentence on the state of aggregates. A warning says what is missing and what to do."""

    text: str
    is_warning: bool = False


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


def of_all(freshness: Sequence[Row]) -> list[Sentence]:
    """Return the state of all aggregates."""
    never = [row["aggregate"] for row in freshness if row["refreshed_at"] is None]
    if len(never) == len(freshness):
        return [Sentence(text="no aggregate was ever computed (etl precalculate)", is_warning=True)]
    loaded, happened = (times.newest(row[name] for row in freshness) for name in ("facts_through", "newest_event_at"))
    newest = f"newest load {instant(loaded)}, newest event {instant(happened)}"
    behind = [row["aggregate"] for row in freshness if row["refreshed_at"] is not None and row["pending_buckets"]]
    sentences = [Sentence(text=newest if never or behind else f"every aggregate equals its facts: {newest}")]
    if behind:
        sentences.append(Sentence(text=f"behind their facts: {', '.join(behind)} (etl precalculate)", is_warning=True))
    if never:
        sentences.append(Sentence(text=f"never computed: {', '.join(never)} (etl precalculate)", is_warning=True))
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


def instant(value: dt.datetime | str | None) -> str:
    """Return an instant to the minute; one that Python's calendar lacks as the server writes it."""
    if isinstance(value, str):
        return display.plain(value)
    return f"{value:%Y-%m-%d %H:%M} UTC" if value else "unknown"
