"""Tables on terminals of 60 to 200 columns, and in a pipe: no id, name, number or time of the data is ever broken."""

import json

import pytest
from rich.cells import cell_len

from etl.cli.tables import Column, layout, shortened
from tests.support.site import Site
from tests.support.terminal import on_terminal

FOLDER = "/".join(["exports of the night", "東京", "partner"] * 6)
SOURCE = f"{FOLDER}/deliveries-2026-11-21.ndjson"

DELIVERIES = """
name = "deliveries_of_the_northern_region"
mode = "merge"
key = ["delivery_id"]
[[table]]
name = "logistics.deliveries_of_the_northern_region"
[table.columns]
delivery_id = { type = "text", required = true, comment = "The number that the partner gave to the delivery" }
the_weight_of_all_parcels_in_kg = { path = "weight.total.kg", type = "numeric", min = 0 }
delivered_at = "timestamptz"
"""
DATASET = "deliveries_of_the_northern_region"


COMMANDS = {
    "failed list": ["FAILURE", "2"],
    "failed list --all": ["FAILURE", "pending"],
    "runs list": ["RUN", "loaded_with_rejects"],
    "runs show latest": ["RUN", "FAILURE", "rejected"],
    "runs undo latest --dry-run": [f"logistics.{DATASET}", "1"],
    "dataset list": [DATASET, "shipments", f"logistics.{DATASET}"],
    f"dataset show {DATASET}": ["the_weight_of_all_parcels_in_kg", "weight.total.kg", "timestamptz"],
    f"dataset check {DATASET}": [f"logistics.{DATASET}", "delivered_at"],
    "db check": ["max_wal_size"],
    "precalculate": ["milestone_durations"],
    "precalculate --list": ["milestone_durations"],
    "precalculate --verify": ["milestone_durations"],
    "report": ["milestone_durations"],
    "report data_quality": [DATASET],
}
"""Commands that print a table, and values that each terminal shows whole."""


def _refused(site: Site) -> tuple[str, str]:
    """Load a source with a long name, of whose records some are refused; return the run and the id of the failure."""
    site.define(DELIVERIES)
    (site.folder / FOLDER).mkdir(parents=True)
    records = [
        {"delivery_id": "D1", "weight": {"total": {"kg": 1}}, "delivered_at": "2026-11-21T08:15:00Z"},
        {"delivery_id": "D2", "weight": {"total": {"kg": -1}}},
        {"delivery_id": "D3", "delivered_at": "yesterday evening"},
    ]
    (site.folder / SOURCE).write_text("\n".join(map(json.dumps, records)))
    run = site.load(DATASET, SOURCE, "--max-rejected", "100%")["run"]
    site.ask("alter table logistics.deliveries_of_the_northern_region drop column delivered_at")
    return run, site.value("select id from etl.failures")


@pytest.mark.parametrize("widths", [(60, 80), pytest.param((120, 200), marks=pytest.mark.slow)])
def test_no_table_breaks_an_id_or_a_name(site: Site, widths: tuple[int, ...]) -> None:
    """On terminals of any width no line of a table is longer, and the ids and names that a person needs are whole."""
    run, failure = _refused(site)
    for command, values in COMMANDS.items():
        for columns in widths:
            _, output = on_terminal(command.split(), env=site.environment(), cwd=site.folder, columns=columns)
            for value in values:
                assert {"RUN": run, "FAILURE": failure}.get(value, value) in output, (command, columns, output)
            table = output.replace("\r\n", "\n").partition("\n\n")[2].splitlines()
            assert table, (command, output)
            too_long = [
                line for line in table if cell_len(line) > columns and not line.startswith(("error: ", "hint: "))
            ]
            assert not too_long, (command, columns, output)
        assert "…" not in (piped := site.run(*command.split()).stdout), piped


COLUMNS = [
    *(Column("id"), Column("name", 1), Column("source", 2, "path"), Column("records"), Column("number_of_faults", 3)),
    Column("fault", kind="text"),
]
ROWS = [["20261121T081500Z-3f9a1c-0-r", "東京", SOURCE, "1,000", "7", "expected a whole number, got text that is none"]]


def test_a_narrow_table_gives_up_what_is_least_needed() -> None:
    """First texts wrap, then columns with a high rank are left out, and at last each record has lines of its own."""
    right = [False, False, False, True, True, False]
    wide = layout(COLUMNS, ROWS, right, None)
    assert (len(wide.lines), wide.left_out, wide.shortened) == (3, (), ())
    assert SOURCE in wide.lines[2]
    found = {width: layout(COLUMNS, ROWS, right, width) for width in range(20, 401)}
    for width, table in found.items():
        assert any(ROWS[0][0] in line for line in table.lines)
        assert max(map(cell_len, table.lines)) <= max(width, len(ROWS[0][0]))
    assert found[400].lines == wide.lines
    assert found[140].shortened == ("source",)
    assert any(line.split()[-1:] == ["none"] for line in found[100].lines[3:])
    left_out = [found[width].left_out for width in range(120, 59, -1)]
    assert left_out.index(("source",)) < left_out.index(("name", "source", "number_of_faults"))
    assert found[50].lines[0].startswith("-[ 1 ]---")
    assert found[50].lines[1] == "id               | 20261121T081500Z-3f9a1c-0-r"
    # An id that is wider than the room beside the names of the columns has a line of its own.
    assert found[40].lines[1:3] == ["id               |", ROWS[0][0]]


def test_a_path_keeps_the_name_of_its_file() -> None:
    """The middle of a path is left out; wide characters count twice."""
    for width in range(1, 60):
        assert cell_len(shortened(SOURCE, width)) <= width
    assert shortened(SOURCE, 40).startswith("exports of ")
    assert shortened(SOURCE, 40).endswith("eries-2026-11-21.ndjson")
    assert shortened("東京", 4) == "東京"


def test_another_encoding_has_tables_too(site: Site) -> None:
    """Where the terminal or the file is not UTF-8, lines are drawn in ASCII."""
    done = site.run("dataset", "list", own_process=True, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "-----" in done.stdout
    assert "\\u2500" not in done.stdout
