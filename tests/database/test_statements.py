"""The named statements of `sql/queries/`, as texts. Needs no server."""

import re
from collections import defaultdict

from etl import queries
from etl.settings import shipped

_PLACEHOLDER = re.compile(r"%\(\w+\)s|\{\w+\}")
_COMMENT = re.compile(r"--.*")


def _normalized(statement: str) -> str:
    return " ".join(_PLACEHOLDER.sub("?", _COMMENT.sub("", statement)).split())


def test_no_statement_is_written_twice() -> None:
    """Two statements differ in more than their names and their placeholders."""
    names = defaultdict(list)
    for path in sorted((shipped("sql") / "queries").glob("*.sql")):
        for name, statement in queries.load(path.stem).items():
            names[_normalized(statement.as_string())].append(f"{path.name}: {name}")
    assert [places for places in names.values() if len(places) > 1] == []
