"""From a source to a proposed dataset definition: some of its records are observed, and written down as TOML."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from etl.datasets import Dataset
from etl.errors import SourceError, UsageError
from etl.inference.evolving import Evolution, evolved
from etl.inference.finding import RecordPath, find_records
from etl.inference.identifiers import words_of
from etl.inference.observing import Budget, Observation
from etl.inference.outside import Outside
from etl.inference.reshaping import NotObjectsError
from etl.inference.sampling import Records, observe_first, observe_rest
from etl.inference.tables import draft_of
from etl.inference.writing import Sample, toml
from etl.ingestion.constants import HEAD_BYTES
from etl.ingestion.framing.documents import require_path
from etl.ingestion.sources.stream import Stream, opened
from etl.ingestion.values import Source

SAMPLE = 10_000
"""The default number of records that are observed: in most exports they show every kind of value."""

_LONGER_HEAD_BYTES = 32 << 20
"""The beginning of a document in which its records are looked for, where the first bytes do not show them."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A proposed definition: as a value, as the text of its file, and the sample that it is based on."""

    dataset: Dataset
    text: str
    sample: Sample


def infer(
    source: Source, *, name: str, records: str | None, sample: int | None, used_names: frozenset[str]
) -> Proposal:
    """Propose a definition called `name` from the first `sample` records of a source (None: from all of them).

    `records` is the path of one record; None: it is detected. No table gets one of the used names. Of a file some
    records further on are looked at, too. Works in constant memory.

    Raises SourceError if the source cannot be read so far or holds no record, UsageError if the path of a record cannot
    be detected.
    """
    root, path, seen, outside = _observed(source, name, records, sample)
    words = tuple(words_of(PurePath(source.name).name.partition(".")[0]))
    draft = draft_of(root, name, path.path, used_names, words, outside.take_members())
    info = Sample(
        source=source.name,
        reason=path.reason,
        records=seen.first,
        further=seen.further,
        no_records=seen.faults,
        is_all=seen.is_all,
        left_out=outside.counts,
        may_leave_out_more=not outside.is_complete and path.path not in {"item", ""},
        rest_fault=seen.rest_fault,
    )
    return Proposal(dataset=draft.dataset, text=toml(draft, info), sample=info)


def evolve(
    source: Source,
    dataset: Dataset,
    text: str,
    *,
    records: str | None,
    sample: int | None,
    used_names: frozenset[str],
) -> Evolution:
    """Return the text of a definition, extended by the members of a source that it does not know.

    `text` is that of its file. `used_names` are those of the tables of other definitions. Raises the errors of `infer`.
    """
    root, *_ = _observed(source, dataset.name, dataset.records if records is None else records, sample)
    return evolved(dataset, text, root, used_names)


def _observed(
    source: Source, name: str, records: str | None, sample: int | None
) -> tuple[Observation, RecordPath, Records, Outside]:
    """Observe records of a source; return them, the path of one, their numbers, and what is outside of them."""
    root = Observation(Budget())
    with opened(source) as stream:
        path = _path(stream, name) if records is None else RecordPath(path=records, reason="the path given")
        require_path(path.path)
        outside = Outside(path.path)
        seen = observe_first(stream, path.path, sample, root, outside)
        is_repeatable = not stream.waits
    if not root.count:
        raise SourceError(
            f"{source.name}: expected JSON objects at {path.path}, found none",
            hint="give a source that has records"
            if records is None
            else "leave out --records to have the path detected, or name another one",
        )
    if is_repeatable and not seen.is_all:
        _look_further(source, root, seen)
    return root, path, seen, outside


def _look_further(source: Source, root: Observation, seen: Records) -> None:
    """Observe some records of the rest of a source, and all of it for numbers in quotes that begin with 0."""
    numbers = list(_numbers(root))
    in_quotes = {name for name, place in numbers if place.texts.count}
    padded = observe_rest(source, root, seen, {name for name, _ in numbers}, in_quotes)
    for name, place in numbers:
        place.texts.has_padded = place.texts.has_padded or name in padded


def _numbers(place: Observation) -> Iterator[tuple[str, Observation]]:
    """Yield the places that may become columns of numbers, and their names."""
    for name, member in place.members.items():
        texts = member.texts
        in_quotes = texts.forms["integer"] + texts.forms["numeric"]
        if (member.numbers.count or in_quotes) and not texts.forms["padded"]:
            yield name, member
        yield from _numbers(member)
        if member.elements:
            yield from _numbers(member.elements)


def _path(stream: Stream, name: str) -> RecordPath:
    """Return the path of one record: detected, unless each line is one."""
    if stream.source.is_lines:
        return RecordPath(path="item", reason="records of a program")
    is_all = len(stream.head) < HEAD_BYTES or stream.waits
    try:
        try:
            return find_records(stream.head, is_all_there_is=is_all)
        except UsageError:
            if is_all:
                raise
        with opened(stream.source) as again:
            return find_records(again.read(_LONGER_HEAD_BYTES))
    except NotObjectsError as error:
        raise SourceError(f"{stream.source.name}: {error}", hint=error.hint_for(stream.source.name, name)) from None
