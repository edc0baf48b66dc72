"""The description of a failure on disk can be read again after it was written."""

import json
from pathlib import Path

import pytest

from etl.errors import UsageError
from etl.ingestion.failed_store.failure import Origin, build_failure
from etl.ingestion.failed_store.locating import RecordLocation
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.values import Failure, Fault, Rejected

KEY = ("parcels", "20261121T081500Z-3f9a1c", "20261121T081500Z-3f9a1c-0-r")


def _failure(*, is_keyed: bool = False) -> Failure:
    dataset, run, failed_id = KEY
    fault = Fault(sqlstate="22P02", reason="expected a number", table="lab.parcels", column="weight_kg")
    return build_failure(
        Origin(id_prefix=failed_id.removesuffix("r"), run=run, dataset=dataset, source="feed.json", batch=0),
        "rejected",
        [Rejected(place=2, key="P2", fault=fault), Rejected(place=5, key=None, fault=fault)],
        {place: RecordLocation(place, 100 * place, b'{"p":1}', is_keyed) for place in (2, 5)},
    )


@pytest.mark.parametrize("is_keyed", [False, True])
def test_the_records_of_a_failure_are_read_as_they_were_written(tmp_path: Path, is_keyed: bool) -> None:
    """The details of a failure are its records, in the order of their lines; other members of the file stay."""
    failure = _failure(is_keyed=is_keyed)
    with FailedStore(tmp_path / "failed") as store:
        store.prepare()
        store.write(failure).result()
        details = store.details(*KEY)
        assert (details.records, details.is_keyed) == (failure.records, is_keyed)
        assert [(record.record, record.offset, record.key) for record in details.records] == [
            (2, 200, "P2"),
            (5, 500, None),
        ]
        path = store.path(*KEY).with_suffix(".json")
        Path(str(path)).write_text(json.dumps(json.loads(path.read_bytes()) | {"member": "of another version"}))
        store.note_state(*KEY, "discarded", "a test")
        document = store.document(*KEY)
        assert (document["member"], document["state"], document["note"]) == (
            "of another version",
            "discarded",
            "a test",
        )
        assert store.details(*KEY) == details


@pytest.mark.parametrize("text", ["{", "[]", '{"id": "x"}', '{"records": [{"record": "first"}]}'])
def test_a_damaged_description_is_wrong_usage(tmp_path: Path, text: str) -> None:
    """A description that is not JSON, or that does not describe records, is reported with its file."""
    with FailedStore(tmp_path / "failed") as store:
        store.prepare()
        store.write(_failure()).result()
        Path(str(store.path(*KEY).with_suffix(".json"))).write_text(text)
        with pytest.raises(UsageError, match=rf"cannot read .*{KEY[2]}\.json of the failed store"):
            store.details(*KEY)
