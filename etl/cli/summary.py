"""The result of a load for people: one line for each source, and one for all of them."""

from collections import Counter
from collections.abc import Sequence

from etl.errors import DONE
from etl.ingestion.values import Balance, Summary

_COUNTS = ("rejected", "failed", "skipped", "withheld")


def sentence(summary: Summary) -> str:
    """Return the result of a source in one line; it ends with the next command if records are left."""
    status = f"dry run: {summary.status}" if summary.dry_run else summary.status
    line = f"{status} {summary.dataset} from {summary.source}: {_counts([summary.records])}"
    line += f" in {summary.seconds:.1f} s"
    if summary.status != "already_loaded":
        line += _rate(summary.records.loaded, summary.bytes_read, summary.seconds)
    if len(summary.rows) > 1 and any(summary.rows.values()):
        line += f"; rows: {', '.join(f'{table} {count:,}' for table, count in summary.rows.items())}"
    if summary.policies.duplicates:
        line += f"; {summary.policies.duplicates:,} with the key of an earlier record"
    if summary.dry_run:
        keys = "keys of other sources" if summary.policies.duplicates else "keys across batches"
        return f"{line}; nothing was loaded; {keys}, foreign keys and triggers were not checked"
    if summary.status == "incomplete" and summary.exit_code in DONE:
        line += "; stopped by --limit: the same command without it loads the rest"
    if summary.records.pending:
        line += f"; {summary.records.pending:,} wait in the failed store: etl failed list --run {summary.run}"
    elif summary.run and summary.exit_code not in DONE and summary.status in {"incomplete", "aborted"}:
        line += f"; next: etl runs show {summary.run}"
    return line


def total_of(summaries: Sequence[Summary], datasets: int = 1) -> str:
    """Return the result of several sources in one line; each source has one summary for each dataset."""
    statuses = Counter(summary.status for summary in summaries)
    # A source is read once for all datasets.
    sources = [summaries[first : first + datasets] for first in range(0, len(summaries), datasets)]
    seconds = sum(max(summary.seconds for summary in each) for each in sources)
    bytes_read = sum(max(summary.bytes_read for summary in each) for each in sources)
    units = f"{len(sources)} sources" if len(sources) > 1 else f"{datasets} datasets"
    line = f"{units}, {', '.join(f'{count} {status}' for status, count in statuses.items())}: "
    line += f"{_counts([summary.records for summary in summaries])} in {seconds:.1f} s"
    loaded = sum(summary.records.loaded for summary in summaries)
    return line + _rate(loaded, bytes_read, seconds)


def _counts(balances: Sequence[Balance]) -> str:
    counts = {name: sum(getattr(each, name) for each in balances) for name in ("read", "loaded", *_COUNTS)}
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count or name not in _COUNTS)


def _rate(loaded: int, bytes_read: int, seconds: float) -> str:
    if not loaded or not seconds:
        return ""
    volume = f"{bytes_read / 1e6 / seconds:,.1f}"
    return f" ({loaded / seconds:,.0f} records/s{'' if volume == '0.0' else f', {volume} MB/s'})"
