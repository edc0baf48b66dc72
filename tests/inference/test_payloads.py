import json
import shutil
import subprocess
from pathlib import Path

import pytest

from etl.datasets import read
from etl.errors import SourceError
from etl.inference import infer
from etl.inference.finding import find_records
from etl.inference.outside import can_take_members
from etl.inference.reshaping import NotObjectsError
from etl.ingestion.values import Source
from tests.inference.payloads import PAYLOADS, RECORDS_OF_ROWS, ROWS
from tests.support.proposals import assert_values_came_back, lost_scalars, records_at
from tests.support.site import Site


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_business_objects_of_a_document_are_its_records(name: str) -> None:
    """The list of business objects is chosen, no list of metadata; a document that is one object is one record."""
    assert find_records(PAYLOADS[name].text.encode()).path == PAYLOADS[name].records


@pytest.mark.parametrize("name", PAYLOADS)
def test_every_scalar_of_a_document_is_in_a_table_or_named_as_left_out(tmp_path: Path, name: str) -> None:
    """A value that no column has is listed in the definition with the number of values at its path."""
    payload = PAYLOADS[name]
    source = tmp_path / "feed.json"
    source.write_text(payload.text, encoding="utf-8")
    proposal = infer(
        Source(name="feed.json", path=str(source)), name="feed", records=None, sample=None, used_names=frozenset()
    )
    left_out = dict(proposal.sample.left_out)
    assert lost_scalars(payload.documents, proposal.dataset, left_out) == []
    for path, count in left_out.items():
        assert f"#   {path}: {count}\n" in proposal.text
    names = [column.name for table in proposal.dataset.tables for column in table.columns]
    assert max(map(len, names)) <= 40


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_payloads_load_as_proposed(site: Site, every: int) -> None:
    """The proposal for each kind loads every record without an edit, and every value comes back."""
    for number, payload in enumerate(list(PAYLOADS.values())[::every]):
        name = f"feed{number}"
        path = site.folder / f"{name}.json"
        path.write_text(payload.text, encoding="utf-8")
        source = Source(name=path.name, path=str(path))
        proposal = infer(source, name=name, records=None, sample=None, used_names=frozenset())
        dataset = site.define(proposal.text)
        summary, error = site.bring(source, name)
        assert (error, summary.records.rejected) == (None, 0), payload
        expected = {f"logistics.{name}{f'_{end}' if end else ''}": rows for end, rows in payload.rows.items()}
        assert summary.rows == expected
        assert_values_came_back(site.connection, dataset, records_at(payload.documents, payload.records))


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_are_no_objects_are_refused_with_the_command_that_helps(tmp_path: Path, name: str) -> None:
    """Arrays of values are recognised; the hint of the error makes records of them by the names that there are."""
    with pytest.raises(NotObjectsError) as raised:
        find_records(json.dumps(ROWS[name]).encode())
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS[name]))
    command = raised.value.hint_for(str(path), str(tmp_path / "feed")).split(" && ")[0]
    subprocess.run(command, shell=True, check=True)  # noqa: S602 - the command of the hint
    made = [json.loads(line) for line in (tmp_path / "feed.ndjson").read_text().splitlines()]
    assert made == RECORDS_OF_ROWS[name]


def test_the_id_of_a_message_is_a_column_of_its_records(tmp_path: Path) -> None:
    """An id in the header around the records is proposed as a column; true and false there identify nothing."""
    path = tmp_path / "feed.json"
    path.write_text(PAYLOADS["an envelope with a header"].text)
    source = Source(name="feed.json", path=str(path))
    proposal = infer(source, name="feed", records=None, sample=None, used_names=frozenset())
    assert proposal.dataset.document_paths == ("$document.Envelope.Header.MsgId",)
    assert "Envelope.Header.IsTest" in dict(proposal.sample.left_out)


def test_a_refused_document_leaves_no_file(tmp_path: Path) -> None:
    """The error names the source and the command, and no definition is written."""
    source = tmp_path / "rows.json"
    source.write_text(json.dumps(ROWS["a first row with the names"]))
    site = Site("postgresql://nobody@127.0.0.1:1/nowhere", tmp_path)
    done = site.run("dataset", "infer", "rows.json", "--output", "config/datasets/rows.toml")
    assert done.returncode == SourceError.exit_code
    assert "the first one has the names of the columns" in done.stderr
    assert "jq -c" in done.stderr
    assert not (tmp_path / "config").exists()


def test_the_next_file_with_other_names_loads_whole(tmp_path: Path) -> None:
    """Names that are data are no columns: a definition for records by day fits the days of the next file."""
    for name in ("records by day", "stock by article", "records by their number"):
        source = tmp_path / "feed.json"
        source.write_text(PAYLOADS[name].text)
        found = Source(name="feed.json", path=str(source))
        proposal = infer(found, name="feed", records=None, sample=None, used_names=frozenset())
        (tmp_path / "feed.toml").write_text(proposal.text)
        paths = [column.path for table in read(tmp_path / "feed.toml").tables for column in table.columns]
        assert not any("2026" in path or "SKU" in path or "S-" in path for path in paths)


def test_members_that_identify_the_document_become_columns(tmp_path: Path) -> None:
    """What says whose the records are, before them, is a column of each row; what says how they were read is not."""
    if not can_take_members():
        pytest.skip("definitions have no members of the document")
    document = {
        "status": "ok",
        "exportId": "E1",
        "createdAt": "2026-01-01T10:00:00Z",
        "site": {"code": "HAM"},
        "request": {"id": "r1"},
        "stock": [{"sku": "a", "qty": 1}],
        "checksum": "x",
    }
    source = tmp_path / "feed.json"
    source.write_text(json.dumps(document))
    found = Source(name="feed.json", path=str(source))
    proposal = infer(found, name="feed", records=None, sample=None, used_names=frozenset())
    paths = {column.name: column.path for column in proposal.dataset.tables[0].columns}
    assert paths == {
        "sku": "sku",
        "qty": "qty",
        "export_id": "$document.exportId",
        "created_at": "$document.createdAt",
        "site_code": "$document.site.code",
    }
    assert dict(proposal.sample.left_out) == {"status": 1, "request.id": 1, "checksum": 1}
