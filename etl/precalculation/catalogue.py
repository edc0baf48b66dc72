"""The catalogue of aggregates: each file `NAME.sql`, of this package or of the user, becomes a value.

A file is one `select` after a head. Every line of the head has a meaning:

    -- One row per day of the source and vehicle.
    -- table: analytics.vehicle_days
    -- bucket: day in source_day
    -- fact logistics.vehicle_logs: trip_date
    -- fact logistics.shipments: log_id -> logistics.vehicle_logs.log_id
    -- newest: logistics.vehicle_logs.trip_date
    -- key: source_day, vehicle_id
    -- column source_day: day of the trips
    -- column ...

A `fact` line says which buckets a changed row of that table touches: an expression that gives a day (a time for
buckets of an hour), or a column whose value leads to the rows of another fact. The select takes its buckets as one
range: the days (times) `:from` to before `:until`, or the instants `:from_utc` to before `:until_utc`.

An aggregate whose bucket is `all` may have parts after its facts, `-- part analytics.NAME`: aggregates with buckets
that its select reads instead of all their facts. They are refreshed before it in the same transaction.

Knows no database.
"""

import difflib
import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from psycopg import sql

from etl.errors import DefinitionError, UsageError, reason_of
from etl.precalculation.buckets import EVERYTHING, KINDS, BucketKind, BucketRange, kind_of
from etl.quick_dataclasses import dataclass
from etl.settings import shipped

_NAME = r"[a-z_][a-z0-9_]{0,62}"
_NAMES = rf"{_NAME}(?:, {_NAME})*"
_TABLE = rf"{_NAME}\.{_NAME}"
_FIRST = (
    ("grain", r"-- (One row per .+\.)", "-- One row per ... ."),
    ("table", rf"-- table: ({_TABLE})", "-- table: SCHEMA.NAME"),
    ("bucket", rf"-- bucket: ((?:{'|'.join(KINDS)})(?: in {_NAME})?)", f"-- bucket: {' | '.join(KINDS)}"),
)
_FACT = rf"-- fact ({_TABLE}(?:: \S.*)?)"
_PART = rf"-- part analytics\.({_NAME})"
_LAST = (
    ("newest", rf"-- newest: ({_TABLE}\.{_NAME})", "-- newest: SCHEMA.TABLE.COLUMN"),
    ("key", rf"-- key: ({_NAMES})", "-- key: COLUMN, ..."),
)
_COLUMN = ("column", rf"-- column ({_NAME}: \S.*)", "-- column NAME: COMMENT")
_VIA = re.compile(rf"({_NAME}) -> ({_TABLE})\.({_NAME})")
_PARAMETER = re.compile(r"(?<![:\w]):(from_utc|until_utc|from|until)\b")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A table that an aggregate reads, and what triggers note when its rows change.

    `noted` is an expression for a day or a time. Where `via` names a table and a column, `noted` is the column with the
    key of rows there. It is empty where the whole aggregate is one bucket.
    """

    table: str
    noted: str = ""
    via: tuple[str, str] | None = None

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name of the table, quoted."""
        return sql.Identifier(*self.table.split("."))


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """A precomputed table: the meaning of a row, the facts that it reads, its key, and the select that computes it.

    `bucket` is the name of its kind of buckets. But for `all`, the key column `bucket_column` holds them; it is called
    like the kind, unless the head names it. `newest` is the table and the column whose maximum is the newest event of
    the facts; `columns` are pairs of name and comment, in the select's order. `parts` are the aggregates that it is
    computed from, by their names.
    """

    name: str
    table: str
    grain: str
    bucket: str
    bucket_column: str
    facts: tuple[Fact, ...]
    newest: tuple[str, str]
    key: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    select: str
    path: str
    part_names: tuple[str, ...] = ()
    parts: tuple["Aggregate", ...] = ()

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name of its table, quoted."""
        return sql.Identifier(*self.table.split("."))

    @property
    def tables(self) -> set[str]:
        """The tables that a refresh reads and writes."""
        return {self.table, *(fact.table for fact in self.facts), *(part.table for part in self.parts)}

    @property
    def reads_ledger(self) -> bool:
        """Whether a table of the ledger is one of its facts."""
        return any(fact.table.startswith("etl.") for fact in self.facts)

    @property
    def kind(self) -> BucketKind:
        """The kind of its buckets."""
        return kind_of(self.bucket)

    def computed(self, buckets: BucketRange = EVERYTHING) -> sql.Composed:
        """Return the select that computes these buckets."""
        texts = _PARAMETER.split(self.select)
        parts: list[sql.Composable] = [sql.SQL(texts[0])]
        for name, text in zip(texts[1::2], texts[2::2], strict=True):
            limit = buckets.first if "from" in name else buckets.until
            parts += [self.kind.instant(limit) if name.endswith("_utc") else self.kind.limit(limit), sql.SQL(text)]
        return sql.Composed(parts)

    def within(self, buckets: BucketRange) -> sql.Composable:
        """Return the condition that a row of its table is in one of these buckets."""
        return self.kind.condition(sql.Identifier("kept", self.bucket_column), buckets)

    def computed_from_facts(self) -> sql.Composed:
        """Return the select that computes all buckets, with the selects of its parts instead of their tables."""
        selects = {part.name: sql.SQL("({})").format(part.computed()) for part in self.parts}
        texts = re.split(rf"\banalytics\.({'|'.join(selects)})\b", self.select)
        composed: list[sql.Composable] = [sql.SQL(texts[0])]
        for name, text in zip(texts[1::2], texts[2::2], strict=True):
            composed += [selects[name], sql.SQL(text)]
        return sql.Composed(composed)

    @property
    def hash(self) -> str:
        """A digest of everything that decides which rows the aggregate has and which changes it follows."""
        parts = [part.hash for part in self.parts]
        definition = "\n".join([self.bucket, *map(repr, self.facts), *parts, self.select])
        return hashlib.sha256(definition.encode()).hexdigest()[:16]


def read_all(config_dir: Path | None = None) -> tuple[Aggregate, ...]:
    """Return the shipped aggregates and those of `aggregates/` in the configuration folder, ordered by name.

    An aggregate of the user replaces the shipped aggregate of the same name. Raises DefinitionError for a file with an
    invalid head.
    """
    aggregates, wrong = look(config_dir)
    for error in wrong.values():
        raise error
    return aggregates


def look(config_dir: Path | None = None) -> tuple[tuple[Aggregate, ...], dict[str, DefinitionError]]:
    """Return the aggregates of all valid files, ordered by name, and what is wrong with the other files, by name.

    A wrong file hinders no other aggregate.
    """
    paths = {path.stem: path for folder in _folders(config_dir) for path in folder.glob("*.sql")}
    aggregates: dict[str, Aggregate] = {}
    wrong: dict[str, DefinitionError] = {}
    for name in sorted(paths):
        try:
            aggregates[name] = _read(paths[name])
        except DefinitionError as error:
            wrong[name] = error
    for name, aggregate in list(aggregates.items()):
        if aggregate.part_names:
            try:
                aggregates[name] = _with_parts(aggregate, aggregates)
            except DefinitionError as error:
                wrong[name] = error
                del aggregates[name]
    return tuple(aggregates.values()), wrong | _misnamed(config_dir)


def _with_parts(aggregate: Aggregate, known: Mapping[str, Aggregate]) -> Aggregate:
    """Return an aggregate with its parts. Each change that touches a part must touch the aggregate, too."""
    parts = []
    for name in aggregate.part_names:
        part = known.get(name)
        if part is None:
            raise DefinitionError(f"no aggregate is called {name}, which is a part, in {aggregate.path}")
        if part.part_names or not part.kind.noting:
            raise DefinitionError(f"expected a part with buckets and without parts, got {name}, in {aggregate.path}")
        missing = {fact.table for fact in part.facts} - {fact.table for fact in aggregate.facts}
        if missing:
            raise DefinitionError(
                f"expected a line '-- fact {min(missing)}', which its part {name} reads, in {aggregate.path}"
            )
        parts.append(part)
    return replace(aggregate, parts=tuple(parts))


def _misnamed(config_dir: Path | None) -> dict[str, DefinitionError]:
    """Return the errors of files of the user that look like an aggregate and have another ending, by name.

    A name with `.sql` in it, such as that of a copy, was chosen to be no aggregate.
    """
    folder = None if config_dir is None else config_dir / "aggregates"
    others = [path for path in folder.glob("*") if ".sql" not in path.name] if folder is not None else []
    return {
        path.name: DefinitionError(
            f"{path}: the file of an aggregate ends with .sql",
            hint=shlex.join(["mv", str(path), str(path.with_suffix(".sql"))]),
        )
        for path in sorted(others)
        if _has_head(path)
    }


def _has_head(path: Path) -> bool:
    try:
        return path.is_file() and re.search(r"^-- *table:", path.read_text(encoding="utf-8"), re.MULTILINE) is not None
    except (OSError, UnicodeDecodeError):
        return False


def readable(config_dir: Path | None = None) -> tuple[Aggregate, ...]:
    """Return the aggregates of all valid files, and log a warning for each other file."""
    import structlog  # noqa: PLC0415 - it imports rich, which a program that only reads aggregates does not need

    aggregates, wrong = look(config_dir)
    log = structlog.get_logger(__name__)
    for name, error in wrong.items():
        log.warning("aggregate_ignored", aggregate=name, reason=str(error))
    return aggregates


def _folders(config_dir: Path | None) -> Iterator[Path]:
    yield shipped("sql") / "aggregates"
    if config_dir is not None:
        yield config_dir / "aggregates"


def choose(names: Sequence[str], config_dir: Path | None = None) -> tuple[Aggregate, ...]:
    """Return the aggregates with these names; without names those of all valid files.

    Raises UsageError for an unknown name, DefinitionError when the file of a name is wrong.
    """
    aggregates, wrong = look(config_dir)
    known = {aggregate.name: aggregate for aggregate in aggregates}
    for name in names:
        if name in wrong:
            raise wrong[name]
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known aggregates: {', '.join(known)}"
            raise UsageError(f"no aggregate is called {name!r}", hint=hint)
    return tuple(aggregate for name, aggregate in known.items() if not names or name in names)


def aggregates_reading(facts: Iterable[str], config_dir: Path | None = None) -> tuple[Aggregate, ...]:
    """Return the aggregates that read at least one of these tables; a wrong file is logged."""
    return reading(facts, readable(config_dir))


def reading(facts: Iterable[str], aggregates: Iterable[Aggregate]) -> tuple[Aggregate, ...]:
    """Return the aggregates that read at least one of these tables."""
    tables = set(facts)
    return tuple(aggregate for aggregate in aggregates if tables.intersection(fact.table for fact in aggregate.facts))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Some editors begin a file with a byte-order mark.
    except OSError as error:
        reason = reason_of(error)
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    raise DefinitionError(f"cannot read {path}: {reason}")


class _Head:
    """The lines of a file, read one after another."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.lines = text.splitlines()
        self.place = 0

    def fail(self, expected: str) -> DefinitionError:
        line = self.lines[self.place] if self.place < len(self.lines) else ""
        return DefinitionError(f"expected {expected!r}, got {line!r}, in {self.path} at line {self.place + 1}")

    def take(self, pattern: str, expected: str) -> str:
        match = re.fullmatch(pattern, self.lines[self.place]) if self.place < len(self.lines) else None
        if not match:
            raise self.fail(expected)
        self.place += 1
        return match[1]

    def begins(self, text: str) -> bool:
        return self.place < len(self.lines) and self.lines[self.place].startswith(text)


def _read(path: Path) -> Aggregate:
    return _parsed(path, _text(path))


@lru_cache(maxsize=256)
def _parsed(path: Path, text: str) -> Aggregate:
    """Return the aggregate of a file with this text; a command asks for it several times."""
    head = _Head(path, text)
    words = {word: head.take(pattern, expected) for word, pattern, expected in _FIRST}
    bucket, _, bucket_column = words["bucket"].partition(" in ")
    kind = KINDS[bucket]
    facts: list[Fact] = []
    while not facts or head.begins("-- fact "):
        facts.append(_fact(head, kind))
    parts: list[str] = []
    while head.begins("-- part "):
        parts.append(head.take(_PART, "-- part analytics.NAME"))
    words |= {word: head.take(pattern, expected) for word, pattern, expected in _LAST}
    columns = []
    while head.begins("--"):
        name, _, comment = head.take(*_COLUMN[1:]).partition(": ")
        columns.append((name, comment))
    newest_table, _, newest_column = words["newest"].rpartition(".")
    aggregate = Aggregate(
        name=path.stem,
        table=words["table"],
        grain=words["grain"],
        bucket=kind.name,
        bucket_column=bucket_column or kind.name,
        facts=tuple(facts),
        newest=(newest_table, newest_column),
        key=tuple(words["key"].split(", ")),
        columns=tuple(columns),
        select="\n".join(head.lines[head.place :]),
        path=str(path),
        part_names=tuple(parts),
    )
    problem = next(_problems(aggregate), None)
    if problem is not None:
        raise DefinitionError(f"expected {problem}, in {path}")
    return aggregate


def _fact(head: _Head, kind: BucketKind) -> Fact:
    expected = f"-- fact SCHEMA.TABLE: {kind.noting.hint}" if kind.noting else "-- fact SCHEMA.TABLE"
    table, _, noted = head.take(_FACT, expected).partition(": ")
    if bool(noted) != bool(kind.noting):
        head.place -= 1
        raise head.fail(expected)
    via = _VIA.fullmatch(noted)
    return Fact(table=table, noted=via[1], via=(via[2], via[3])) if via else Fact(table=table, noted=noted)


def _problems(aggregate: Aggregate) -> Iterator[str]:
    """Yield each contradiction in a file: what was expected, and what the file says."""
    noting = aggregate.kind.noting
    names = [name for name, _ in aggregate.columns]
    tables = [fact.table for fact in aggregate.facts]
    direct = {fact.table for fact in aggregate.facts if fact.via is None}
    if aggregate.table != f"analytics.{aggregate.name}":
        yield f"the table analytics.{aggregate.name}, as the file is called, got {aggregate.table}"
    if noting and aggregate.bucket_column not in aggregate.key:
        yield f"the bucket {aggregate.bucket_column} in the key, got {', '.join(aggregate.key)}"
    for fact in aggregate.facts:
        if noting and fact.via is not None and fact.via[0] not in direct:
            yield f"a line '-- fact {fact.via[0]}: {noting.hint}', to which {fact.table} leads"
    if len({(fact.table, fact.noted) for fact in aggregate.facts}) < len(tables):
        yield f"each fact line once, got {', '.join(tables)}"
    yield from _problems_of_parts(aggregate)
    if aggregate.newest[0] not in tables:
        yield f"the newest of a fact, got {aggregate.newest[0]}"
    missing = [name for name in aggregate.key if name not in names]
    if missing:
        yield f"a line '-- column {missing[0]}: COMMENT' for the key"
    if len(set(names)) < len(names) or len(set(names)) == len(set(aggregate.key)):
        yield f"each column once, and more than the key, got {', '.join(names)}"
    if not re.match(r"(select|with)\s", aggregate.select) or aggregate.select.rstrip().endswith(";"):
        yield "one select without a semicolon after the head"
    parameters = set(_PARAMETER.findall(aggregate.select))
    if not noting and parameters:
        yield f"no range where the bucket is {aggregate.bucket}, got :{min(parameters)}"
    if noting and not parameters >= {"from", "until"} and not parameters >= {"from_utc", "until_utc"}:
        yield "a select that takes :from and :until, or :from_utc and :until_utc"


def _problems_of_parts(aggregate: Aggregate) -> Iterator[str]:
    if aggregate.part_names and aggregate.kind.noting:
        yield f"no part where the bucket is {aggregate.bucket}, got {aggregate.part_names[0]}"
    for name in aggregate.part_names:
        if not re.search(rf"\banalytics\.{name} as ", aggregate.select):
            yield f"a select that reads 'analytics.{name} as ...', its part"
