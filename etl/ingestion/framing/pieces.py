"""Bytes -> pieces that begin and end at record boundaries, with exact offsets and record numbers.

Every record is proven to be JSON before its piece is given out, a block of records at a time or one by one, so that no
record after a syntax fault is ever loaded. ijson locates an array, and checks the document around it to its end.
"""

import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from etl.errors import EtlError, SourceError
from etl.ingestion.constants import MAX_NESTING, MAX_RECORD_BYTES
from etl.ingestion.fingerprints import Mark
from etl.ingestion.framing.boundaries import NotJSON, is_whole_record, value_end
from etl.ingestion.framing.dialects import dialect_of
from etl.ingestion.framing.documents import Container, Document, OutsideReader, container
from etl.ingestion.framing.formats import format_of
from etl.ingestion.framing.nesting import ArrayScan, BracketScan
from etl.ingestion.framing.piece_builder import PieceBuilder, Stretch, build
from etl.ingestion.framing.window import Window
from etl.ingestion.values import ByteStream, Piece, PieceShape, Proof, Prover
from etl.quick_dataclasses import dataclass
from etl.settings import Format

# Of an array that is not small, only the last block is not proven at once.
_SMALL_ARRAY_BYTES = 1 << 20

# A text that holds an object as JSON: exports of columns of JSON are lines of such texts.
_HOLDS_OBJECT = re.compile(r'"(?: |\\[nrt])*\{').match
_BEGINS_WITH_OBJECT = re.compile(r'(?:\[[ \t\r\n]*+)?\{[ \t\r\n]*+["}]').match

# The length of the beginning that shows the format of a source that is no JSON.
_FORMAT_BYTES = 1 << 12


@dataclass(frozen=True, kw_only=True)
class CutOptions:
    """How the records of one path are cut.

    A piece has at most `batch_rows` records; the first has at most `first_rows`, and each at most twice as many as the
    one before it. The `prover` is asked first how many records a block holds; without a prover the cutter checks the
    blocks itself. `expected` returns marks that may come after so many records: where the source has one of them, its
    records were proven before. `outside` reads what the document has outside of the records.
    """

    format: Format
    records_path: str
    batch_rows: int
    max_record_bytes: int = MAX_RECORD_BYTES
    first_rows: int = sys.maxsize
    prover: Prover | None = None
    expected: Callable[[int], Sequence[Mark]] | None = None
    outside: OutsideReader | None = None


class NoRecordsError(SourceError):
    """A complete document has nothing at some of the records paths; `faults` has a fault for the place of each path."""

    def __init__(self, faults: Mapping[int, SourceError]) -> None:
        first = next(iter(faults.values()))
        super().__init__(str(first), hint=first.hint)
        self.faults = faults


class EmptySourceError(SourceError):
    """A source has nothing but white space."""


def cut(stream: ByteStream, *paths: CutOptions) -> Iterator[Piece]:
    """Yield the pieces of a source in order.

    The records of several paths are cut in one pass; no path may be within another. `Piece.which` is the place of the
    path among `paths`.

    Raises SourceError when the source cannot be read to its end, after the whole records before the fault were given
    out, or has no record (an empty array is allowed); NoRecordsError when it was read to its end, and some of the paths
    name nothing in it.
    """
    return (piece for piece in cutting(stream, *paths) if piece is not None)


def cutting(stream: ByteStream, *paths: CutOptions) -> Iterator[Piece | None]:
    """Yield as `cut` does, and None after each block of a piece, so that other work can be done in between."""
    if stream.source.is_lines:
        paths = tuple(replace(options, format="auto", records_path="item") for options in paths)
    options = paths[0]
    window = Window(stream, options.max_record_bytes)
    first = _require_json(window)
    is_auto = options.format == "auto" and first in '{"' and options.records_path == "item"
    # Lines and values that follow one another have no paths.
    if len(paths) == 1 and (options.format == "ndjson" or is_auto):
        shape: PieceShape = "lines" if _has_lines(window) else "values"
        builder = _builder(window, options, shape)
        yield from build(builder, _scan(builder, options), is_ended=True)
        return
    yield from _of_documents(window, paths)


def _of_documents(window: Window, paths: Sequence[CutOptions]) -> Iterator[Piece | None]:
    """Yield the pieces of the arrays and objects at the records paths."""
    wanted = [container(options.records_path) for options in paths]
    builders = [
        _builder(window, options, at_path.shape, which)
        for which, (options, at_path) in enumerate(zip(paths, wanted, strict=True))
    ]
    numbers = dict.fromkeys(range(len(paths)), 1)
    missing = set(numbers)
    document = Document(window, wanted, [options.outside for options in paths if options.outside])
    # A piece may have records of several arrays, such as small pages.
    is_joining = len(paths) == 1 and builders[0].shape == "array"
    try:
        while (which := document.next()) is not None:
            builder = builders[which]
            missing.discard(which)
            window.number = numbers[which]
            window.records = paths[which].records_path if len(paths) > 1 else None
            if not builder.begin_container():
                yield builder.piece()
            scanned = _scan(builder, paths[which], is_alone=wanted[which].is_alone)
            yield from build(builder, scanned, is_ended=not is_joining)
            numbers[which] = window.number
            builder.end_container()
            document.end(which)
    except EtlError:
        yield from (builder.piece() for builder in builders if builder.count)
        raise
    yield from (builder.piece() for builder in builders if builder.count)
    window.number, window.records = 1, None
    _require_all(window, paths, wanted, missing, document.hint)


def _builder(window: Window, options: CutOptions, shape: PieceShape, which: int = 0) -> PieceBuilder:
    return PieceBuilder(
        window, shape, which, prover=options.prover, batch_rows=options.batch_rows, first_rows=options.first_rows
    )


def _require_all(
    window: Window, paths: Sequence[CutOptions], wanted: Sequence[Container], missing: Collection[int], hint: str | None
) -> None:
    """Raise NoRecordsError when the document has nothing at some of the records paths."""
    faults = {
        which: window.fault(
            f"no {wanted[which].kind} at the records path {paths[which].records_path or repr('')}",
            window.front,
            hint=hint,
        )
        for which in sorted(missing)
    }
    if faults:
        raise NoRecordsError(faults)


def _require_json(window: Window) -> str:
    """Skip to the first character that is no blank, and return it.

    Raises SourceError when it begins no array and no object.
    """
    first = window.skip_start()
    if not first:
        fault = window.fault("expected JSON, the source is empty", 0)
        raise EmptySourceError(str(fault), hint=fault.hint)
    beginning = window.text_from(window.front)[:_FORMAT_BYTES]
    if _BEGINS_WITH_OBJECT(beginning):
        return first
    if dialect := dialect_of(beginning):
        raise window.fault(
            f"expected JSON that begins with [ or {{, got {dialect.name}", window.front, hint=dialect.hint
        )
    if first not in "[{" and not _HOLDS_OBJECT(beginning):
        format_name = format_of(beginning)
        actual = f"what looks like {format_name}" if format_name else "something else"
        raise window.fault(
            f"expected JSON that begins with [ or {{, got {actual}",
            window.front,
            hint="jq -r . FILE writes the JSON that the text holds"
            if first == '"' and format_name is None
            else "give the file that holds the records as JSON",
        )
    return first


def _scan(builder: PieceBuilder, options: CutOptions, *, is_alone: bool = False) -> Iterator[Stretch | None]:
    """Yield the records from the front of the window to the end of their container or of the stream.

    None comes before a wait for more of a stream that is idle. The bracket that ends an array or object stays in the
    window. `is_alone`: only the first record.
    """
    window, shape = builder.window, builder.shape
    last = {"array": "]", "members": "}"}.get(shape, "")
    # An array that follows another one may be as small as that one was: a block must not pass its end.
    small = ArrayScan(window.front) if shape == "array" and builder.containers > 1 else None
    begin = at = window.front
    is_first = True
    marks = shape in {"lines", "values"} and not is_alone
    while True:
        if window.waits(at, shape):
            yield None
        if not (character := window.skip_blank(at, marks=marks)):
            break
        at = window.position
        if character == last or (is_alone and not is_first):
            return
        if last and not is_first:
            at = _after_comma(window, at, character, last)
        is_first = False
        known = builder.known_stretch(at, options.expected(builder.records)) if options.expected else None
        if known is not None:
            yield known
            at = known.end
            continue
        block = _block_at(builder, at, small if at - begin < _SMALL_ARRAY_BYTES else None)
        if block is not None:
            end = at + len(block[0])
            yield Stretch(at, end, *block)
        else:
            end = window.line_end(at) if shape == "lines" else window.value_end(at, shape)
            window.learn(end, builder.needle)
            yield Stretch(at, end)
        at = end
    if last:
        raise window.fault(f"the {'array' if last == ']' else 'object'} is cut off before its {last}", window.position)


def _after_comma(window: Window, at: int, character: str, last: str) -> int:
    """Return where the next record begins, after the comma at `at`; raise SourceError where there is no comma."""
    if character != ",":
        raise window.unexpected(f"expected , or {last} after a record, got something else", at)
    window.skip_blank(at + 1)
    return window.position


def _block_at(builder: PieceBuilder, at: int, small: ArrayScan | None) -> tuple[bytes, Proof | None] | None:
    """Return a block of records from `at`, and its proof; None: the records are to be scanned one by one."""
    window, needle = builder.window, builder.needle
    cell_end, place = builder.cell_end(at), builder.next_place(at)
    ends = None if small is None else window.array_end(at, small)
    if ends is not None and ends <= cell_end and (rest := window.rest(at, ends, needle, place)) is not None:
        return rest
    if builder.shape == "values":
        return None
    return window.block(at, needle, cell_end, place, ends)


def _has_lines(window: Window) -> bool:
    """Return whether the source holds one record per line; otherwise its records span lines or share them."""
    begin = window.position
    end = _first_end(window, begin)
    if end is None:
        return True
    while True:
        text = window.text_from(begin)
        after = text[end:].lstrip(" \t\r")[:1]
        if after or not window.extends(begin):
            return "\n" not in text[:end] and after in {"", "\n"}


def _first_end(window: Window, begin: int) -> int | None:
    """Return the length of the value at `begin`, or of the window if the source is cut off; None: it is not JSON."""
    text = window.text_from(begin)
    try:
        return value_end(text, 0)
    except NotJSON as error:
        if not error.cut_off:
            return None
    # A large value is scanned once, and not again whenever more of it is read.
    scan, scanned = BracketScan(MAX_NESTING), 0
    while True:
        end = scan.end(text[scanned:].encode("latin-1"))
        if end is not None and is_whole_record(text[: scanned + end].encode("latin-1")):
            return scanned + end
        if end is not None or not window.extends(begin):
            break
        scanned = len(text)
        text = window.text_from(begin)
    try:
        return value_end(text, 0)
    except NotJSON as fault:
        return len(text) if fault.cut_off else None
