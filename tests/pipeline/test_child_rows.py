"""Child rows of records without a key: they are joined with their record by the lineage of both."""

import json
import re

import pytest

from tests.support.site import Site

DEFINITION = """
name = "orders"
%s
[[table]]
name = "lab.orders"
[table.columns]
number = "integer"
[[table]]
name = "lab.lines"
each = ["parts", "lines"]
[table.columns]
of_order = { path = "^.^.number", type = "integer" }
sku = "text"
[[table]]
name = "lab.notes"
each = "notes"
[table.columns]
of_order = { path = "^.number", type = "integer" }
note = { path = ".", type = "text", max_length = 3 }
"""


@pytest.mark.parametrize(
    ("mode", "options"),
    [("append", ("--workers", "2", "--batch-rows", "40")), ("append", ("--decoder", "ijson")), ("replace", ())],
)
def test_child_rows_have_the_lineage_of_their_record(site: Site, mode: str, options: tuple[str, ...]) -> None:
    """Each child row joins exactly one record, also of equal records, after rejections and a replay."""
    site.define(DEFINITION % f'mode = "{mode}"')
    orders = [
        {
            "number": number // 2,
            "parts": [{"lines": [{"sku": f"{number}-{line}"} for line in range(number % 3)]} for _ in range(2)],
            "notes": ["ok"] * (number % 2) + (["too long"] if number % 50 == 7 else []),
        }
        for number in range(200)
    ]
    (site.folder / "orders.json").write_text(json.dumps(orders))
    done = site.run("load", "orders", "orders.json", "--json", "--max-rejected", "10", "--no-precalculate", *options)
    assert (done.returncode, done.summary["records"]["rejected"]) == (1, 4), done.stderr
    for failure in site.failures.waiting():
        path = site.failures.path(failure)
        path.write_text(re.sub("too long", "yes", path.read_text()))
        assert site.run("failed", "replay", failure, "--no-precalculate").returncode == 0
    for table, count in (("lines", sum(2 * (n % 3) for n in range(200))), ("notes", 104)):
        query = {
            "lines": "select count(*), count(*) filter (where o.number = c.of_order) from lab.lines c"
            " join lab.orders o using (etl_run, etl_batch, etl_place)",
            "notes": "select count(*), count(*) filter (where o.number = c.of_order) from lab.notes c"
            " join lab.orders o using (etl_run, etl_batch, etl_place)",
        }[table]
        assert site.ask(query) == [(count, count)]
    assert site.value("select count(distinct (etl_run, etl_batch, etl_place)) from lab.orders") == 200
