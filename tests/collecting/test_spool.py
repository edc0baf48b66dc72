"""The spool: what is acknowledged is on the disk, whatever is killed, and nothing is acknowledged that is not."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from etl.collecting import reading, segments
from etl.collecting.buffers import Accepted, Keep, Limits, OtherBodyError, RefusedError
from etl.collecting.events import Events, NotEventsError, TooLargeError, events_of
from etl.collecting.spool import Spool
from etl.errors import BusyError
from tests.support.checkout import ROOT
from tests.support.waiting import until

# Sends numbered events, one request after the other, and prints the last number that was acknowledged.
WRITER = """
import sys
from pathlib import Path
from etl.collecting.events import events_of
from etl.collecting.buffers import Limits
from etl.collecting.spool import Spool
spool = Spool(Path(sys.argv[1]), Limits(segment_seconds=0.02))
number = int(sys.argv[2])
while True:
    futures = [spool.submit(events_of(b'{"n":%d}' % at)) for at in range(number, number + 20)]
    for future in futures:
        future.result()
    number += 20
    print(number, flush=True)
"""


def _events(text: str) -> Events:
    return events_of(text.encode())


def _lines(folder: Path) -> list[bytes]:
    """Return all events of a spool that a loader would load, in order."""
    lines: list[bytes] = []
    for stream in segments.streams(folder):
        position = 0
        while (stretch := reading.next_stretch(stream, position, 1_000, 1 << 20)) is not None:
            assert stretch.offset == position
            lines += stretch.lines.splitlines()
            position = stretch.end
    return lines


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """Open a spool."""
    spool = Spool(tmp_path / "scans", Limits(segment_seconds=0.01))
    yield spool
    if not spool.is_closed:
        spool.close()


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ('{"a": 1}', [b'{"a": 1}']),
        (' [{"a": 1},\n {"b":\r\n 2}] ', [b'{"a": 1}', b'{"b":   2}']),
        ('{"a": 1}\r\n\n{"b": "\\n"}\n', [b'{"a": 1}', b'{"b": "\\n"}']),
        ("[]", []),
        ('{"a": "São Paulo"}', ['{"a": "São Paulo"}'.encode()]),
    ],
)
def test_events_of_a_body(body: str, lines: list[bytes]) -> None:
    """An object, an array and lines of objects are events, one on each line; no other byte changes."""
    events = _events(body)
    assert events.lines.splitlines() == lines
    assert [events.lines[at : at + 1] for at in events.offsets] == [b"{"] * len(lines)
    assert sum(events.lengths) == len(events.lines)


@pytest.mark.parametrize(
    ("body", "byte"),
    [
        (b"", 0),
        (b'{"a": 1}\n{"b": }', 15),
        (b'{"a": 1}\n 17', 10),
        (b'[{"a": 1}, "x"]', 11),
        (b'{"a": "\xff"}', 7),
        (b'{"a": 1', 7),
        (b'[{"a": 1}\n', 10),
        (b'{"a": "\\\\\\ud800"}', 9),
        (b'{"a": "\\udc00"}', 13),
        (b'{"a": "\\\\ud800', 14),
        (b'{"a":' * 100_000, None),
    ],
)
def test_a_body_that_has_no_events(body: bytes, byte: int | None) -> None:
    """A body that is not JSON, or has another value than an object, is refused with the byte, and is not quoted."""
    with pytest.raises(NotEventsError) as refused:
        events_of(body)
    assert refused.value.byte == byte
    with pytest.raises(TooLargeError):
        _events('{"a": "' + "x" * (1 << 20) + '"}')
    with pytest.raises(TooLargeError):
        _events('{"a":' * 300 + "1" + "}" * 300)


def test_places_and_keys(spool: Spool, tmp_path: Path) -> None:
    """Each event has its place; a request with a known key gets the places of the first one, also after a restart."""
    folder = tmp_path / "scans"
    first = spool.submit(_events('[{"n": 1}, {"n": 2}]'), key="k").result()
    assert first.offsets == [0, 9]
    again = spool.submit(_events('[{"n": 1}, {"n": 2}]'), key="k").result()
    assert again == Accepted(stream=first.stream, offsets=[0, 9], is_repeat=True)
    with pytest.raises(OtherBodyError):
        spool.submit(_events('{"n": 3}'), key="k").result()
    with pytest.raises(BusyError, match="another collector writes"):
        Spool(folder)
    spool.close()
    with pytest.raises(RefusedError):
        spool.submit(_events("{}"))
    other = Spool(folder)
    assert other.submit(_events('[{"n": 1}, {"n": 2}]'), key="k").result() == again
    assert other.submit(_events('{"n": 4}')).result() == Accepted(stream=first.stream, offsets=[18])
    other.close()
    assert _lines(folder) == [b'{"n": 1}', b'{"n": 2}', b'{"n": 4}']


def test_a_new_day_begins_a_new_stream(tmp_path: Path) -> None:
    """The events of each day are a stream of their own."""
    days = ["20261130"]
    spool = Spool(tmp_path / "scans", today=lambda: days[-1])
    first = spool.submit(_events('{"n": 1}')).result()
    days.append("20261201")
    second = spool.submit(_events('{"n": 2}')).result()
    spool.close()
    assert first.stream.startswith("scans-20261130T")
    assert second.stream.startswith("scans-20261201T")
    assert second.offsets == [0]
    assert _lines(tmp_path / "scans") == [b'{"n": 1}', b'{"n": 2}']


def test_a_killed_writer(tmp_path: Path) -> None:
    """After each kill -9 every acknowledged event is there, once and in order; the next writer continues the stream."""
    folder = tmp_path / "scans"
    number = 0
    for _ in range(2):
        command = [sys.executable, "-c", WRITER, str(folder), str(number)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
            assert writer.stdout
            for _ in range(10):
                number = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            number = max([number, *map(int, writer.stdout.read().split())])
        Spool(folder).close()
        found = [int(line.partition(b":")[2][:-1]) for line in _lines(folder)]
        assert found[:number] == list(range(number))
        number = len(found)
        assert found == list(range(number))


def test_a_torn_tail(tmp_path: Path) -> None:
    """What a crash left of a group is cut off, as are bytes that are no group; the groups before it stay."""
    folder = tmp_path / "scans"
    spool = Spool(folder, Limits(segment_seconds=60))
    for number in range(3):
        spool.submit(_events(f'{{"n": {number}}}')).result()
    [stream] = segments.streams(folder)
    [segment] = stream.segments()
    whole = segment.path.read_bytes()
    spool.close()
    [ended] = stream.segments()
    for length in range(len(whole) - 1, len(whole) // 3, -7):
        ended.path.unlink(missing_ok=True)
        segment.path.write_bytes(whole[:length] + b"\0" * 50)
        segments.recover(stream)
        kept = 2 if length >= 2 * len(whole) // 3 else 1
        assert _lines(folder) == [b'{"n": 0}', b'{"n": 1}'][:kept]
    damaged = bytearray(whole)
    damaged[-5] ^= 1
    ended.path.write_bytes(damaged)
    with pytest.raises(segments.DamagedError):
        _lines(folder)


def test_a_full_disk(tmp_path: Path) -> None:
    """On a full disk nothing is acknowledged that is not written; there is room again, and events are accepted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "etl-test", str(folder)]
    done = subprocess.run(mount, capture_output=True, encoding="utf-8", check=False) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        pytest.skip(f"may not mount a small file system: {done.stderr.strip() if done else 'not root'}")
    try:
        spool = Spool(folder / "scans", Limits(segment_seconds=0.01))
        accepted = 0

        def is_accepted(number: int) -> bool:
            try:
                spool.submit(_events(f'{{"n": {number}, "note": "{"x" * 3_000}"}}')).result()
            except RefusedError as refused:
                assert "full" in str(refused)  # noqa: PT017 - most requests are accepted
                return False
            return True

        while is_accepted(accepted):
            accepted += 1
        assert accepted > 10
        assert not is_accepted(accepted)
        subprocess.run(["mount", "-o", "remount,size=4m", str(folder)], check=True)
        until(lambda: is_accepted(-1), "room")
        spool.close()
        found = _lines(folder / "scans")
        assert len(found) == accepted + 1
        assert found[-1].startswith(b'{"n": -1,')
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_failed_flush(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a flush that failed nothing is accepted any more; the next start keeps what was acknowledged."""
    spool.submit(_events('{"n": 1}')).result()

    def fail(_file: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(RefusedError, match="lost a write"):
            spool.submit(_events('{"n": 2}')).result()
    with pytest.raises(RefusedError, match="lost a write"):
        spool.submit(_events('{"n": 3}'))
    assert spool.is_broken
    spool.close()
    Spool(tmp_path / "scans").close()
    assert _lines(tmp_path / "scans") == [b'{"n": 1}']


def test_a_full_backlog(tmp_path: Path) -> None:
    """A spool with too many bytes takes no events until the loader has removed what is loaded."""
    folder = tmp_path / "scans"
    spool = Spool(folder, Limits(segment_seconds=0))
    for number in range(2):
        spool.submit(_events(f'{{"n": {number}}}')).result()
    spool.close()
    spool = Spool(folder, Limits(most_bytes=80))
    with pytest.raises(RefusedError, match="wait to be loaded"):
        spool.submit(_events('{"n": 2}'))
    [stream] = segments.streams(folder)
    at_once, one_hour = Keep(seconds=0, bytes=1 << 20), Keep(seconds=3600, bytes=1 << 20)
    reading.remove_loaded(stream, 8, at_once, is_last=True)
    reading.remove_loaded(stream, 18, one_hour, is_last=True)
    assert len(stream.segments()) == 2  # They are not loaded, or too young.
    reading.remove_loaded(stream, 18, Keep(seconds=3600, bytes=80), is_last=True)
    assert [segment.offset for segment in stream.segments()] == [9]  # The next event gets its place after it.

    def is_accepted() -> bool:
        try:
            return spool.submit(_events('{"n": 3}')).result().offsets == [18]
        except RefusedError:
            return False

    until(is_accepted, "room in the backlog")
    spool.close()
    reading.remove_loaded(stream, 27, at_once, is_last=False)
    assert segments.streams(folder) == []


def test_a_backlog_that_fills_at_once(tmp_path: Path) -> None:
    """What was written since the bytes were counted last is part of the backlog."""
    spool = Spool(tmp_path / "scans", Limits(most_bytes=1_000))
    event = _events(json.dumps({"text": "x" * 1_000}))
    spool.submit(event).result()
    assert spool.bytes > 1_000
    with pytest.raises(RefusedError, match="wait to be loaded"):
        spool.submit(event)
    spool.close()


def test_events_that_wait_are_counted(spool: Spool, tmp_path: Path) -> None:
    """The events after a position are counted, also when it is within a group, and over several segments."""
    for bodies in (["{}", '{"a":1}\n{"b":2}\n{"c":3}'], ['{"d":4}']):
        for future in [spool.submit(_events(body)) for body in bodies]:
            future.result()
        until(lambda: not list(tmp_path.rglob("*.open")), "the end of the segment")
    spool.close()
    [stream] = segments.streams(tmp_path / "scans")
    offsets = [0, 3, 11, 19, 27, 35]
    assert [reading.waiting_events(stream, offset) for offset in offsets] == [5, 4, 3, 2, 1, 0]


def test_a_stream_without_a_segment_is_read_as_empty(tmp_path: Path) -> None:
    """The loader may look at a stream whose first segment is being written: nothing can be read or removed yet."""
    folder = tmp_path / "scans" / segments.new_name("scans", "20261130")
    folder.mkdir(parents=True)
    (folder / segments.name_of(0, is_ended=False)).touch()
    [stream] = segments.streams(tmp_path / "scans")
    reading.remove_loaded(stream, 0, Keep(seconds=0, bytes=0), is_last=True)
    assert reading.next_stretch(stream, 0, 10, 1_000) is None
    assert (reading.waiting(stream, 0), reading.waiting_events(stream, 0)) == ((0, 0.0), 0)
