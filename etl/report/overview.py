"""The page on all aggregates, as a value: how fresh they are, the periods, the tiles and the sections."""

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import replace

import psycopg

from etl import queries
from etl.precalculation import reading
from etl.precalculation.catalogue import Aggregate
from etl.precalculation.reading import Row, Subject
from etl.report import answers, state, tiles
from etl.report.answers import Answers
from etl.report.page import Overview, freshness_of
from etl.report.parts import Section
from etl.report.sections import SECTIONS, Topic

AGGREGATES = tuple(sorted({*tiles.AGGREGATES, *(name for topic in SECTIONS for name in topic.aggregates)}))
"""The aggregates that the page is read from."""

_SQL = queries.load("report")
_HAS_ROWS = queries.load("copying")["has_rows"]


def read(
    connection: psycopg.Connection, freshness: Subject, known: Sequence[Aggregate], read_at: dt.datetime
) -> Overview:
    """Read the page; the connection is in a snapshot. `known` are all aggregates of the installation."""
    names = [name for name, _ in freshness.columns]
    rows: list[Row] = [dict(zip(names, row, strict=True)) for row in reading.read(connection, freshness, None)]
    never = {row["aggregate"] for row in rows if row["refreshed_at"] is None}
    without = {each.name for each in known if each.name in never and not _has_facts(connection, each)}
    loads = answers.read_loads(connection)
    periods = None if len(never) == len(rows) else answers.read_periods(connection)
    found = Answers(connection, periods, never) if periods else None
    sentences = state.of_all(rows, without)
    if periods is None and len(never) < len(rows):
        sentences.append(state.NO_FIGURES)
    return Overview(
        state=sentences,
        ages=state.ages(read_at, loads["newest_event_at"], loads["loaded_through"]),
        periods=periods,
        tiles=tiles.read(found) if found else [],
        sections=[_section(topic, found, without) for topic in SECTIONS] if found else [],
        freshness=freshness_of(freshness, rows),
    )


def _section(topic: Topic, answers: Answers, without_facts: Collection[str]) -> Section:
    """Read a section; of an aggregate that was never computed it is empty, and says why."""
    section, name = topic.read(answers), topic.aggregates[0]
    if name not in answers.missing:
        return section
    why = "Nothing that this is made of is loaded so far." if name in without_facts else f"{name} was never computed."
    return replace(section, charts=(), tables=(), empty=why)


def _has_facts(connection: psycopg.Connection, aggregate: Aggregate) -> bool:
    """Return whether a table that an aggregate reads has a row."""
    return any(
        queries.one(connection, _SQL["is_made"], {"table": fact.table})["is_made"]
        and queries.one(connection, _HAS_ROWS.format(table=fact.identifier))["has_rows"]
        for fact in aggregate.facts
    )
