"""First values of tables with history: they follow an undo, and are no versions."""

import json

from tests.support.site import Site

FIRSTS = """
name = "parcels"
mode = "merge"
key = ["id"]
newest_by = "version"
[[table]]
name = "lab.parcels"
history = true
[table.columns]
id = { type = "integer", required = true }
version = "integer"
price = { type = "integer", keep_first = true }
"""


def test_first_values_follow_an_undo_and_are_no_versions(site: Site) -> None:
    """A first value that becomes known late ends no version; an undo finds it anew among the versions that are left."""
    site.define(FIRSTS)

    def load(run: int, version: int, price: int, *, id: int = 1) -> str:
        path = site.folder / f"{run}.ndjson"
        path.write_text(json.dumps({"id": id, "version": version, "price": price}))
        run_name: str = site.load("parcels", path)["run"]
        return run_name

    def undo(run: str) -> None:
        ended = site.run("runs", "undo", run, "--no-precalculate")
        assert ended.returncode == 0, ended.stderr

    shown = "select price, coalesce(etl_first_price, price) from lab.parcels where id = 1"
    first, second, third = load(1, 2, 20), load(2, 4, 40), load(3, 5, 50)
    oldest = load(4, 1, 10)  # It was never shown, so no history has it.
    assert site.ask(shown) == [(50, 10)]
    assert site.ask("select count(*) from lab.parcels_history") == [(2,)]
    undo(third)
    assert site.ask(shown) == [(40, 10)]
    undo(oldest)
    assert site.ask(shown) == [(40, 20)]
    undo(first)
    assert site.ask(shown) == [(40, 40)]
    undo(second)
    assert site.ask(shown) == []
