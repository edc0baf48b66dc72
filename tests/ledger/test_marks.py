"""The marks of the ledger: how large they are, and how a run is found by one of them."""

import pytest

from etl.ingestion.ledger import marks, runs
from etl.ingestion.recognition import comparison
from tests.support.marked import compared, marks_of, recognised
from tests.support.site import Site

_FULL = 6


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few runs have their anchors at one mark."""
    monkeypatch.setattr(comparison, "_FEW", _FULL)


def _enter(site: Site, data: bytes) -> int:
    """Enter a run with the marks of a source, as a load does."""
    new = runs.NewRun(
        dataset="events",
        source="",
        source_bytes=None,
        definition_hash="",
        mode="append",
        is_atomic=False,
        is_forced=False,
    )
    recognition = compared(site.connection, "events", data)
    assert not recognition.has_changed()
    run = runs.start(site.connection, new, runs.AttemptRequest(source="", folder=None, options=""))
    known = marks_of(data)
    marks.add(site.connection, "events", run.number, known, recognition.anchor(known))
    return run.number


def test_the_marks_of_a_small_file_take_at_most_300_bytes(site: Site) -> None:
    """A load of 100 records adds a row of eight marks, its key and an entry of an index."""
    site.define('name = "events"\n[[table]]\nname = "logistics.events"\n[table.columns]\ni = "integer"\n')
    path = site.folder / "small.ndjson"
    path.write_bytes(b"".join(b'{"i":%d}\n' % number for number in range(100)))
    assert site.bring(path, "events")[1] is None
    [(run, hashes)] = site.ask("select run, cardinality(hashes) from etl.marks")
    assert hashes == 8
    site.ask(
        "insert into etl.runs (run, dataset, source, definition_hash, mode, is_atomic, is_forced)"
        " select n::text, 'events', '', '', 'append', false, false from generate_series(1, 3000) as n"
    )
    site.ask("vacuum etl.separate_marks")
    before = site.value("select pg_total_relation_size('etl.separate_marks')")
    site.ask(
        "insert into etl.separate_marks (run, last_record, anchor, hashes, places)"
        " select r.number, last_record, hashint8extended(r.number, 1), hashes, places"
        " from etl.marks m, etl.runs r where m.run = %s and r.number <> m.run order by r.number",
        [run],
    )
    site.ask("vacuum etl.separate_marks")
    assert (site.value("select pg_total_relation_size('etl.separate_marks')") - before) / 3000 <= 300


def test_a_run_is_found_where_many_share_its_beginning(site: Site) -> None:
    """Each of many runs is known again by its source, and extended by a longer one; each source that differs is new."""
    head = b'{"i":1}\n{"i":2}\n'
    sources = [head + b'{"i":%d}\n' % number for number in range(10, 20 + 2 * _FULL)]
    numbers = [_enter(site, source) for source in sources]
    found = site.column("select count(*) from etl.marks where anchor is not null group by anchor order by 1")
    assert found[-2:] == [_FULL, _FULL]
    for source, number in zip(sources, numbers, strict=True):
        assert recognised(site.connection, "events", source).run == number
        longer = recognised(site.connection, "events", source + b'{"i":3}\n')
        assert (longer.kind, longer.run) == ("extends", number)
    assert recognised(site.connection, "events", head + b'{"i":9}\n').kind == "new"


def test_a_cut_copy_is_seen_where_many_share_its_beginning(site: Site) -> None:
    """A source that may be the beginning of a run is not new, although the run is found by a later mark only."""
    head = b'{"i":1}\n{"i":2}\n'
    for number in range(2 * _FULL):
        _enter(site, head + b'{"i":%d}\n' % number)
    long = _enter(site, head + b"".join(b'{"i":%d}\n' % number for number in range(1000, 1010)))
    decided = recognised(site.connection, "events", head + b'{"i":1000}\n')
    assert (decided.kind, decided.run) == ("perhaps within", long)
    site.ask("update etl.runs set superseded_by = 1 where number = %s", [long])
    assert recognised(site.connection, "events", head + b'{"i":1000}\n').kind == "new"
