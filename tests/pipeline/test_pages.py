"""Pages of records in one source: appended arrays, one page a line, pages in an array, arrays under keys."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.support.records import vehicles
from tests.support.site import Site

Pages = Sequence[Sequence[dict[str, Any]]]


def _appended(pages: Pages) -> str:
    return "".join(json.dumps(page) for page in pages)


def _on_lines(pages: Pages) -> str:
    return "\n".join(json.dumps(page) for page in pages) + "\n"


def _one_a_line(pages: Pages) -> str:
    return "\n".join(json.dumps({"page": number, "cars": page}) for number, page in enumerate(pages)) + "\n"


def _joined(pages: Pages) -> str:
    return "\n".join("\ufeff" + json.dumps({"page": 1, "cars": page}, indent=1) for page in pages)


def _in_an_array(pages: Pages) -> str:
    return json.dumps([{"page": number, "cars": page} for number, page in enumerate(pages)])


def _under_keys(pages: Pages) -> str:
    return json.dumps({"status": "ok", "days": {f"2026-01-{day:02}": page for day, page in enumerate(pages, 1)}})


SHAPES: list[tuple[Callable[[Pages], str], str]] = [
    (_appended, "item"),
    (_on_lines, "item"),
    (_one_a_line, "cars.item"),
    (_joined, "cars.item"),
    (_in_an_array, "item.cars.item"),
    (_under_keys, "days.*.item"),
]


@pytest.mark.parametrize(("written", "path"), SHAPES, ids=[written.__name__[1:] for written, _ in SHAPES])
def test_all_pages_of_a_source_load_as_one_run(site: Site, written: Callable[[Pages], str], path: str) -> None:
    """All records load, numbered through and with exact offsets; a cut source continues, a known one does not load."""
    pages = [vehicles(1, 4), [], vehicles(5, 5), vehicles(6, 12)]
    pages[2][0]["vehicle_id"] = None
    text = written(pages)
    arguments = ["load", "vehicles", "pages.json", "--records", path, "--batch-rows", "3", "--json"]
    content = text.encode()
    (site.folder / "pages.json").write_bytes(content[: content.index(b"V009")])
    cut = site.run(*arguments)
    assert (cut.returncode, cut.summary["records"]["read"]) == (3, 8)
    (site.folder / "pages.json").write_bytes(content)
    whole = site.run(*arguments)
    assert whole.returncode == 1, whole.stderr
    records = whole.summary["records"]
    assert (records["read"], records["loaded"], records["skipped"], records["pending"]) == (12, 4, 8, 1)
    assert site.column("select vehicle_id from logistics.vehicles order by 1") == [
        f"V{number:03}" for number in range(1, 13) if number != 5
    ]
    assert site.value("select count(*) from etl.runs") == 1
    [failure] = site.run("failed", "show", "--all", "--json").lines
    [record] = failure["records"]
    assert (record["record"], record["offset"]) == (5, content.rindex(b"{", 0, content.index(b"null")))
    known = site.run(*arguments, "--workers", "2")
    assert (known.summary["status"], known.summary["records"]["skipped"]) == ("already_loaded", 12)
    trace = site.run("runs", "trace", "logistics.vehicles", "vehicle_id=V012", "--json").lines[0]
    assert (trace["record"], trace["offset"]) == (12, content.rindex(b"{", 0, content.index(b"V012")))


@pytest.mark.parametrize(
    "options",
    [(), *(pytest.param(each, marks=pytest.mark.slow) for each in (("--workers", "2"), ("--decoder", "ijson")))],
)
def test_small_pages_share_batches(site: Site, options: tuple[str, ...]) -> None:
    """Pages of few records are loaded together, and each record keeps its number and its byte, also when refused."""
    for written, path in SHAPES:
        pages = [vehicles(2 * page + 1, 2 * page + 2) if page % 5 else [] for page in range(100)]
        pages[40:40] = [[{"vehicle_id": None}]]
        content = written(pages).encode()
        (site.folder / "pages.json").write_bytes(content)
        arguments = ["load", "vehicles", "pages.json", "--records", path, "--json", "--no-precalculate", *options]
        done = site.run(*arguments, "--batch-rows", "60")
        assert (done.returncode, done.summary["records"]["loaded"]) == (1, 160), done.stderr
        assert done.summary["batches"]["loaded"] <= 5 or "*" in path
        [failure] = site.run("failed", "show", "--all", "--json").lines
        [record] = failure["records"]
        assert (record["record"], record["offset"]) == (65, content.rindex(b"{", 0, content.index(b"null")))
        for name, number in (("V200", 161), ("V083", 66)):
            trace = site.run("runs", "trace", "logistics.vehicles", f"vehicle_id={name}", "--json").lines[0]
            assert (trace["record"], trace["offset"]) == (number, content.rindex(b"{", 0, content.index(name.encode())))
        (site.folder / "pages.json").write_bytes(content + b"\n")
        again = site.run(*arguments, "--batch-rows", "7").summary
        assert (again["status"], again["records"]["skipped"]) == ("already_loaded", 161)
        site.ask("truncate logistics.vehicles, etl.runs, etl.failures cascade")


def test_a_page_that_is_appended_is_the_rest_of_its_source(site: Site) -> None:
    """A file to which a page was appended since is known, and the new page is loaded, by one process or by several."""
    path = site.folder / "pages.json"
    for workers, first in (("1", 1), ("2", 5)):
        path.write_text(_one_a_line([vehicles(1, first), vehicles(first + 1, first + 2)]))
        site.load("vehicles", path, "--records", "cars.item", "--workers", workers)
        text = path.read_text() + _one_a_line([vehicles(first + 3, first + 3)])
        path.write_text(text)
        summary = site.load("vehicles", path, "--records", "cars.item", "--workers", workers)
        assert (summary["records"]["loaded"], summary["records"]["skipped"]) == (1, first + 2)
        site.ask("truncate logistics.vehicles, etl.runs cascade")


def test_a_page_without_records_is_reported(site: Site) -> None:
    """A page that holds something else, such as an error, ends the source after the records before it."""
    path = site.folder / "pages.json"
    path.write_text(_one_a_line([vehicles(1, 2)]) + '{"error": "too many requests"}\n' + _one_a_line([vehicles(3, 3)]))
    done = site.run("load", "vehicles", "pages.json", "--records", "cars.item", "--json")
    assert (done.returncode, done.summary["records"]["loaded"]) == (3, 2)
    assert "document 2 of the source has no records at the records path" in done.error


@pytest.mark.parametrize(
    "options", [(), ("--decoder", "ijson"), pytest.param(("--workers", "2"), marks=pytest.mark.slow)]
)
def test_lines_of_files_that_were_joined_load(site: Site, options: tuple[str, ...]) -> None:
    """A byte-order mark before any line is passed by: no record is rejected, and none is lost."""
    lines = [json.dumps(vehicle) + "\n" for vehicle in vehicles(1, 400)]
    for place in (0, 1, 200, 399):
        lines[place] = "\ufeff" + lines[place]
    (site.folder / "joined.ndjson").write_text("".join(lines))
    summary = site.load("vehicles", "joined.ndjson", *options)
    assert (summary["status"], summary["records"]["loaded"]) == ("loaded", 400)
    assert site.load("vehicles", "joined.ndjson", *options)["status"] == "already_loaded"
