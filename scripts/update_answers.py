#!/usr/bin/env python3
"""Rewrite the answers of the analyst's guide: what its queries give on the data of `make demo`.

An answer is between `<!-- answer -->` and `<!-- end: answer -->`, below its query. Loading the demo takes a minute,
so `scripts/update_docs.py` leaves the answers alone; `tests/docs/test_analysts_guide.py` compares them.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from etl.database.connecting import connect
from etl.provisioning import opened
from etl.report import display
from scripts.update_docs import ROOT, Connection

GUIDE = ROOT / "docs" / "analysts-guide.md"

_QUESTION = re.compile(r"(```sql\n(?P<query>.*?)```\n\n<!-- answer -->\n).*?(<!-- end: answer -->)", re.DOTALL)


def load_demo(database_url: str) -> None:
    """Run the demo against a migrated database."""
    subprocess.run(  # noqa: S603 - our own script
        [ROOT / "scripts" / "demo"],
        env=os.environ | {"ETL": str(Path(sys.executable).with_name("etl")), "ETL_DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
    )


def with_answers(text: str, connection: Connection) -> str:
    """Return a page with the answers to its questions as they are now."""
    return _QUESTION.sub(lambda found: f"{found[1]}\n{_answer(connection, found['query'])}\n\n{found[3]}", text)


def _answer(connection: Connection, query: str) -> str:
    cursor = connection.execute(query.encode())
    rows = cursor.fetchall()
    names = [column.name for column in cursor.description or ()]
    right = display.numeric_columns(rows, len(names))
    cells = zip(*display.by_column(rows, len(names)), strict=True)
    lines = [names, ["---:" if is_right else "---" for is_right in right], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Load the demo into a server of its own and rewrite the guide in place."""
    with tempfile.TemporaryDirectory() as name, opened(f"embedded:{name}/postgres", ROOT / "config") as server:
        load_demo(server.conninfo)
        with connect(server) as connection:
            GUIDE.write_text(with_answers(GUIDE.read_text(encoding="utf-8"), connection), encoding="utf-8")


if __name__ == "__main__":
    main()
