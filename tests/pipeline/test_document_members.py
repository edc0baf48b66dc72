"""Members of the document above the records: `$document.NAME` as the path of a column."""

import json
from typing import Any

import pytest

from tests.support.site import Site

DEFINITION = """
name = "parcels"
records = "data.parcels.item"
[[table]]
name = "lab.parcels"
[table.columns]
id = { type = "integer", required = true }
exported_at = { path = "$document.meta.exported_at", type = "timestamptz", required = true }
page = { path = "$document.page", type = "integer", null_if = [-1] }
total = { path = "$document.total", type = "numeric(6,2)" }
is_last = { path = "$document.is_last", type = "boolean" }
meta = { path = "$document.meta", type = "jsonb" }
tags = { path = '$document."a.b"', type = "text[]" }
gone = { path = "$document.data.gone", type = "text", default = "none" }
[[table]]
name = "lab.items"
each = "items"
[table.columns]
page = { path = "$document.page", type = "text" }
sku = "text"
"""
META = {"exported_at": "2026-11-21T08:15:00Z", "by": 'x "\\\n'}


def _document(records: list[dict[str, Any]], *, is_after: bool = False, **more: Any) -> dict[str, Any]:
    above = {"meta": META, "page": 7, "total": 12.5, "is_last": True, "a.b": ["x", None], "other": {"page": 9}} | more
    data = {"data": {"gone": None, "parcels": records}}
    return data | above if is_after else above | data


def _records(count: int = 300) -> list[dict[str, Any]]:
    return [{"id": number, "items": [{"sku": str(number)}], "page": 1} for number in range(count)]


ROW = (300, "2026-11-21 08:15:00+00", 7, "12.50", True, META, ["x", None], "none")


def _rows(site: Site) -> list[tuple[Any, ...]]:
    return site.ask(
        "select count(*), exported_at::text, page, total::text, is_last, meta, tags, gone from lab.parcels"
        " group by 2, 3, 4, 5, 6, 7, 8"
    )


@pytest.mark.parametrize(
    ("options", "is_after"),
    [
        ((), False),
        (("--workers", "2", "--batch-rows", "100"), True),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                ((), True),
                (("--workers", "2", "--batch-rows", "100"), False),
                (("--decoder", "ijson"), False),
                (("--decoder", "ijson"), True),
            )
        ),
    ],
)
def test_members_of_the_document_are_in_each_row(site: Site, is_after: bool, options: tuple[str, ...]) -> None:
    """Each row has the members, whatever their types; those after the records are read first, which is said."""
    site.define(DEFINITION)
    (site.folder / "parcels.json").write_text(json.dumps(_document(_records(), is_after=is_after)))
    done = site.run("load", "parcels", "parcels.json", "--json", "--no-precalculate", *options)
    assert done.returncode == 0, done.stderr
    assert _rows(site) == [ROW]
    assert site.ask("select count(*), page from lab.items group by 2") == [(300, "7")]
    assert len(done.events("source_read_twice")) == is_after
    assert "unknown" not in done.summary or "$document" not in str(done.summary["unknown"])
    assert site.run("load", "parcels", "parcels.json", "--json").summary["status"] == "already_loaded"


def test_standard_input_has_only_what_comes_before_the_records(site: Site) -> None:
    """A member after the records of standard input is exit code 2 with the reason; one before them costs nothing."""
    site.define(DEFINITION)
    done = site.run("load", "parcels", "-", "--json", stdin=json.dumps(_document(_records(), is_after=True)))
    assert done.returncode == 2
    assert "not before the records, and this source can be read only once" in done.stderr
    assert site.value("select count(*) from etl.runs") == 0
    text = json.dumps(_document(_records()))
    assert site.run("load", "parcels", "-", "--json", stdin=text).returncode == 0
    assert _rows(site) == [ROW]


def test_a_replay_has_the_members_of_its_document(site: Site) -> None:
    """The failed store keeps the members, so that a record is replayed when its source is gone."""
    site.define(DEFINITION)
    records = _records(3)
    records[1]["id"] = None
    path = site.folder / "parcels.json"
    path.write_text(json.dumps(_document(records)))
    assert site.run("load", "parcels", "parcels.json").returncode == 1
    path.unlink()
    [failure] = site.failures.waiting()
    assert site.failures.details(failure)["document"]["$document.page"] == "7"
    site.failures.edit(failure, ('"id": null', '"id": 1'))
    assert site.run("failed", "replay", failure).returncode == 0
    assert _rows(site) == [(3, *ROW[1:])]


def test_a_missing_member_is_null_and_a_misfit_is_reported(site: Site) -> None:
    """A required member that is missing rejects the records; one of another type is exit code 2 with its column."""
    site.define(DEFINITION)
    path = site.folder / "parcels.json"
    path.write_text(json.dumps(_document(_records(2), meta={})))
    done = site.run("load", "parcels", "parcels.json", "--json", "--max-rejected", "9")
    assert (done.returncode, done.summary["records"]["rejected"]) == (1, 2)
    path.write_text(json.dumps(_document(_records(3), page="seven")))
    done = site.run("load", "parcels", "parcels.json")
    assert done.returncode == 2
    assert "column page: the value does not fit" in done.stderr
    assert "seven" not in done.stderr


def test_documents_that_follow_one_another_have_one_value(site: Site) -> None:
    """Pages with other values are exit code 2 with the way out; pages with the same values load."""
    site.define(DEFINITION)
    pages = [_document([{"id": number}], page=7) for number in range(3)]
    path = site.folder / "parcels.ndjson"
    path.write_text("".join(json.dumps(page) + "\n" for page in pages))
    assert site.run("load", "parcels", "parcels.ndjson").returncode == 0
    pages[2]["page"] = 8
    path.write_text("".join(json.dumps(page) + "\n" for page in pages))
    done = site.run("load", "parcels", "parcels.ndjson", "--force")
    assert done.returncode == 2
    assert "document 3 has another value of page than the first one" in done.stderr
    assert "by `each`" in done.stderr


def test_there_is_no_document_above_lines(site: Site) -> None:
    """Lines and an array that is the whole source have no document: exit code 2; so has a condition that names one."""
    site.define(DEFINITION)
    (site.folder / "parcels.json").write_text(json.dumps(_records(2)))
    done = site.run("load", "parcels", "parcels.json", "--records", "item")
    assert done.returncode == 2
    assert "there is no document above records at the path 'item'" in done.stderr
    site.write_definition(DEFINITION.replace('each = "items"', 'each = "items"\nwhere = { "$document.page" = 7 }'))
    shown = site.run("dataset", "show", "parcels")
    assert shown.returncode == 2
    assert "a condition takes members of the object" in shown.stderr


def test_other_commands_know_the_members(site: Site) -> None:
    """A dry run and `dataset check FILE` show the rows of the load."""
    site.define(DEFINITION)
    (site.folder / "parcels.json").write_text(json.dumps(_document(_records(2), is_after=True)))
    assert site.run("load", "parcels", "parcels.json", "--dry-run", "--json").summary["status"] == "checked"
    shown = site.run("dataset", "check", "parcels", "parcels.json", "--json").lines
    assert shown[1]["rows"][0]["values"]["page"] == "7"
    assert site.run("dataset", "show", "parcels", "--projection").returncode == 0
