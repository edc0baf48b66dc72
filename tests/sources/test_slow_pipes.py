"""A pipe that pauses: what it has given so far is loaded, and the whole is the same source as a file with its bytes."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.sources.stream import opened
from etl.ingestion.values import Piece, Source
from tests.support.site import Site
from tests.support.waiting import until

DEFINITION = """
name = "parcels"
mode = "append"
[[table]]
name = "logistics.parcels"
[table.columns]
parcel_id = "text"
"""


def pieces_of(tmp_path: Path, parts: list[bytes], *, linger: float | None = 0.05) -> list[Piece]:
    """Cut a named pipe into which the next part is written when a piece has come, or the last one."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    come = threading.Semaphore(1)

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            for part in parts:
                come.acquire(timeout=10)
                file.write(part)

    writer = threading.Thread(target=write)
    writer.start()
    found = []
    options = CutOptions(format="auto", records_path="item", batch_rows=1000)
    with opened(Source(name="pipe", path=str(path)), linger=linger) as stream:
        for piece in cut(stream, options):
            found.append(piece)
            come.release()
    writer.join()
    path.unlink()
    return found


def lines(first: int, last: int) -> bytes:
    """Return records, one per line."""
    return b"".join(b'{"parcel_id": "%d"}\n' % number for number in range(first, last + 1))


def test_a_pause_ends_a_piece(tmp_path: Path) -> None:
    """The whole records before a pause are a piece; a record that is cut by the pause belongs to the next piece."""
    text = lines(1, 9)
    found = pieces_of(tmp_path, [text[:70], text[70:150], text[150:]])
    assert [(piece.first_record, piece.count) for piece in found] == [(1, 3), (4, 4), (8, 2)]
    array = b"[" + b",".join(lines(1, 6).split(b"\n")[:-1]) + b"]"
    at = array.index(b',{"parcel_id": "4"}')
    found = pieces_of(tmp_path, [array[: at + 1], array[at + 1 :]])
    assert [(piece.first_record, piece.count) for piece in found] == [(1, 3), (4, 3)]


def test_a_pause_changes_no_mark(tmp_path: Path) -> None:
    """The marks by which a source is known do not depend on the pauses of a pipe."""
    text = lines(1, 40)
    paused = pieces_of(tmp_path, [text[:33], text[33:400], text[400:]])
    whole = pieces_of(tmp_path, [text], linger=None)
    assert len(paused) > len(whole) == 1
    assert [mark for piece in paused for mark in piece.marks] == [mark for piece in whole for mark in piece.marks]
    assert paused[-1].end_mark == whole[-1].end_mark


def test_the_records_of_a_slow_pipe_are_seen_before_its_end(site: Site) -> None:
    """Rows are visible after a pause; at the end the source is known as that of a file with the same records."""
    site.define(DEFINITION)
    running = site.start("load", "parcels", "-", "--json", "--no-precalculate", "--linger", "0.05", "--workers", "1")
    count: Callable[[], int] = lambda: site.value("select count(*) from logistics.parcels")  # noqa: E731
    running.send(lines(1, 3))
    until(lambda: count() == 3, "the records before the first pause")
    running.send(lines(4, 5) + b'{"parc')
    until(lambda: count() == 5, "the records before the second pause")
    running.send(b'el_id": "6"}\n')
    ended = running.ended()
    assert ended.summary["records"]["loaded"] == 6
    (site.folder / "same.ndjson").write_bytes(lines(1, 6))
    same = site.load("parcels", "same.ndjson", "--no-precalculate")
    assert (same["status"], same["run"]) == ("already_loaded", ended.summary["run"])
    assert json.dumps(same["records"]["skipped"]) == "6"
