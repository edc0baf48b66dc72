"""The page on the fast path shows the bytes of each step as the code makes them."""

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from psycopg import sql

from etl import queries
from etl.datasets import Dataset, read
from etl.datasets.paths import spelling
from etl.ingestion.framing.needles import Needle
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.transform.acceptance import group_of
from etl.ingestion.transform.fastpath import FastPath
from etl.ingestion.transform.projection import Projection
from etl.ingestion.transform.rules import Token
from etl.ingestion.transform.shapes import TokenColumn, shape
from etl.ingestion.transform.tokens import SEPARATOR
from etl.ingestion.values import Source
from scripts.update_docs import ROOT

PAGE = (ROOT / "docs" / "explain" / "fast-path.md").read_text(encoding="utf-8")
SHOWN = dict(re.findall(r"<!-- step: (\w+) -->\n```text\n(.*?)```", PAGE, re.DOTALL))
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
SOURCE = FILES["parcels.json"].encode()

RUN_NUMBER = 1


class Stream(io.BytesIO):
    """The bytes of the page's source."""

    source = Source(name="parcels.json", path=None)
    is_idle = False


class Example:
    """The source of the page, cut and made into a batch by the code."""

    def __init__(self, dataset: Dataset) -> None:
        compiled = shape(dataset)
        self.shape = compiled
        ((self.table, self.columns),) = compiled.tables
        guarded = frozenset((self.table.name, column.name) for column in self.columns)
        path = FastPath(compiled, Projection(dataset), RUN_NUMBER, guarded)
        options = CutOptions(format="auto", records_path="item", batch_rows=20_000, prover=path)
        (self.piece,) = cut(Stream(SOURCE), options)
        (self.batch,) = [batch for batch in path.batching(self.piece) if batch is not None]
        (block,) = [span for span in self.piece.blocks if self.piece.between(*span).count(b'"id"') > 1]
        decoder = msgspec.json.Decoder(cast(Any, list)[compiled.record])
        self.records: list[Any] = decoder.decode(b"[%b]" % self.piece.between(*block))

    def fields(self, groups: Sequence[Sequence[TokenColumn]]) -> list[tuple[Token, ...]]:
        """Return the tokens of the rows of the block, those of each group of columns joined."""
        return self.shape.extractor(self.table, groups).fields(self.records, (), (), ())


def piece(example: Example) -> Iterator[str]:
    """Yield the properties of the piece."""
    yield f"offset        {example.piece.offset}"
    yield f"length        {example.piece.length} bytes"
    yield f"records       {example.piece.count}, the first is number {example.piece.first_record}"
    yield f"hash (xxh3)   {example.piece.hash.hex()}"


def needle(example: Example) -> Iterator[str]:
    """Yield the needle that the cutter derives from the first record."""
    learned = Needle("array", None)
    learned.learn(SOURCE.decode("latin-1"), example.piece.offset + example.piece.blocks[0][1])
    yield learned._needle.decode().replace("\n", "␊")


def blocks(example: Example) -> Iterator[str]:
    """Yield the blocks of the piece as bytes of the source, with their records."""
    for (begin, end), rows in zip(example.piece.blocks, example.piece.block_rows, strict=True):
        names = ", ".join(re.findall(r'"id": "(P-\d)"', example.piece.between(begin, end).decode()))
        how = "scanned" if rows is None else "found by the needle, proven by decoding"
        yield f"{example.piece.offset + begin:3} to {example.piece.offset + end:3}   {names:9}  {how}"


def tokens(example: Example) -> Iterator[str]:
    """Yield column, path and token of the record that the page follows."""
    row, *_ = example.fields([[column] for column in example.columns])
    for column, token in zip(example.columns, row, strict=True):
        yield f"{column.name:11} {spelling(column.place.path):11} {bytes(token).decode()}"


def columns(example: Example) -> Iterator[str]:
    """Yield the tokens of the block by groups of columns, and which are accepted."""
    groups: dict[str, list[TokenColumn]] = {}
    for column in example.columns:
        group = group_of(column.column, is_guarded=True)
        groups.setdefault(group.name if group else column.name, []).append(column)
    rows_by_group = zip(*example.fields(list(groups.values())), strict=True)
    for (name, members), rows in zip(groups.items(), rows_by_group, strict=True):
        group = group_of(members[0].column, is_guarded=True)
        accepted = group.accept(rows, len(members)) if group else None
        assert accepted is not None
        for place, row in enumerate(rows):
            verdict = "accepted with the others" if place not in accepted[1] else alone(members[0], row)
            yield f"{'' if place else name:12} {shown(bytes(row)):28} {verdict}"


def alone(column: TokenColumn, token: Token) -> str:
    """Return the result for a token that is checked by itself."""
    suspects: set[int] = set()
    assert column.accept is not None
    column.accept([token], suspects)
    return "checked alone: " + ("suspect" if suspects else "accepted")


def row(example: Example) -> Iterator[str]:
    """Yield the line of CSV of the record that the page follows."""
    (rows, *_), *_ = example.batch.tables
    yield shown(b"".join(rows.encoded()).splitlines()[1])


def copy(example: Example) -> Iterator[str]:
    """Yield the statement that sends the rows, at most 100 characters a line."""
    (rows, *_), *_ = example.batch.tables
    names = sql.SQL(", ").join(map(sql.Identifier, rows.columns or ()))
    statement = queries.load("sending")["copy_csv"].format(table=example.table.identifier, columns=names)
    yield from textwrap.wrap(statement.as_string(None), 100, break_on_hyphens=False)


def suspects(example: Example) -> Iterator[str]:
    """Yield the result of the checked path for the suspect records."""
    ((_, text),) = example.batch.tables
    yield "P-3   " + b"".join(text.encoded()).decode().rstrip("\n").replace("\t", "␉")
    (rejected,) = example.batch.rejected
    yield f"P-4   rejected, {rejected.fault.sqlstate}: {rejected.fault.column}: {rejected.fault.reason}"


def shown(data: bytes) -> str:
    """Return bytes as the page shows them."""
    return data.replace(SEPARATOR, "␟".encode()).decode()


STEPS = {step.__name__: step for step in (piece, needle, blocks, tokens, columns, row, copy, suspects)}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """Cut the source of the page and make it into a batch."""
    path: Path = tmp_path_factory.mktemp("config") / "parcels.toml"
    path.write_text(FILES["config/datasets/parcels.toml"], encoding="utf-8")
    return Example(read(path))


@pytest.mark.parametrize("name", STEPS)
def test_a_step_shows_what_the_code_does(example: Example, name: str) -> None:
    """The bytes that the page shows at a step are those of the code."""
    assert "".join(f"{line}\n" for line in STEPS[name](example)) == SHOWN[name]


def test_no_step_is_left_out() -> None:
    """Each step that the page shows is compared."""
    assert list(SHOWN) == list(STEPS)
