import re
from pathlib import Path

import psycopg
import pytest

from etl.precalculation.catalogue import read_all
from scripts import update_answers, update_docs
from tests.support.faults import Connection

TEXT = update_answers.GUIDE.read_text(encoding="utf-8")
AGAIN = "run: .venv/bin/python -m scripts.update_answers"


@pytest.mark.slow
def test_the_answers_are_those_of_the_demo(postgresql: Connection, database_url: str) -> None:
    """The demo runs to its end, and each query of the guide gives the result that the guide shows below it."""
    update_answers.load_demo(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("set role etl_analyst")
        assert update_answers.with_answers(TEXT, connection) == TEXT, AGAIN
        outdated = connection.execute("select aggregate from analytics.freshness where pending_buckets > 0")
        assert outdated.fetchall() == []


def test_there_are_twenty_questions_with_their_answers() -> None:
    """Each of the questions has one query and an answer of at least two rows."""
    questions = re.findall(r"^### ([^\n]+\?)$(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)
    assert len(questions) >= 20
    for title, body in questions:
        assert body.count("```sql\n") == 1, title
        assert len(re.findall(r"^\|", body, re.MULTILINE)) >= 4, title


def test_each_aggregate_is_described() -> None:
    """The guide describes every shipped aggregate with its grain, and its questions read most of them."""
    queries = " ".join(re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL))
    for aggregate in read_all():
        assert f"### {aggregate.table}\n\n{aggregate.grain}\n" in TEXT
    assert len([aggregate for aggregate in read_all() if aggregate.table in queries]) >= 13


@pytest.mark.parametrize(("name", "kind", "unit"), [("day", "date", "day, UTC"), ("sum_fuel_l", "numeric", "litres")])
def test_a_unit_follows_from_type_and_name(name: str, kind: str, unit: str) -> None:
    """The unit of a column follows from its type and its name; a column without a unit is an error."""
    assert update_docs.unit(name, kind) == unit
    with pytest.raises(StopIteration):
        update_docs.unit("weight", "numeric")


def test_each_column_is_in_the_guide() -> None:
    """Each column of a shipped aggregate has its line in the guide, with the comment of its head."""
    for aggregate in read_all():
        section = TEXT.partition(f"### {aggregate.table}\n")[2].partition("\n### ")[0]
        described = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]*\| (.+) \|$", section, re.MULTILINE)
        assert described == list(aggregate.columns), Path(aggregate.path).name
