"""The page on all aggregates, as a value: how fresh they are, the periods, the tiles and the sections."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from etl.precalculation.catalogue import Aggregate
from etl.report import answers, state, tiles
from etl.report.answers import Answers
from etl.report.page import Overview, freshness_of
from etl.report.parts import Section
from etl.report.readers import Reader
from etl.report.sections import SECTIONS, Topic

AGGREGATES = tuple(sorted({*tiles.AGGREGATES, *(name for topic in SECTIONS for name in topic.aggregates)}))
"""The aggregates that the page is read from."""


def read(reader: Reader, names: Sequence[str], known: Sequence[Aggregate]) -> Overview:
    """Read the page; `names` are the columns of the freshness. `known` are all aggregates of the installation."""
    rows = reader.freshness(names)
    never = {row["aggregate"] for row in rows if row["refreshed_at"] is None}
    without = {
        each.name
        for each in known
        if each.name in never and not any(reader.has_rows(fact.table) for fact in each.facts)
    }
    loads = answers.read_loads(reader)
    periods = None if len(never) == len(rows) else answers.read_periods(reader)
    found = Answers(reader, periods, never) if periods else None
    sentences = state.of_all(rows, without)
    if periods is None and len(never) < len(rows):
        sentences.append(state.NO_FIGURES)
    return Overview(
        state=sentences,
        ages=state.ages(reader.read_at(), loads["newest_event_at"], loads["loaded_through"]),
        periods=periods,
        tiles=tiles.read(found) if found else [],
        sections=[_section(topic, found, without) for topic in SECTIONS] if found else [],
        freshness=freshness_of(names, rows),
    )


def _section(topic: Topic, answers: Answers, without_facts: Collection[str]) -> Section:
    """Read a section; of an aggregate that was never computed it is empty, and says why."""
    section, name = topic.read(answers), topic.aggregates[0]
    if name not in answers.missing:
        return section
    why = "Nothing that this is made of is loaded so far." if name in without_facts else f"{name} was never computed."
    return replace(section, charts=(), tables=(), empty=why)
