"""URLs as sources: a server on this machine that breaks in every way, and moto in the place of S3."""

import base64
import gzip
import importlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import s3fs

from etl.errors import SourceError, UsageError
from etl.ingestion.constants import HEAD_BYTES
from etl.ingestion.sources import remote, transfers
from etl.ingestion.sources.naming import named
from etl.ingestion.sources.stream import opened
from etl.settings import RetrySettings
from tests.support.stores import s3_replaced
from tests.support.streams import read_all
from tests.support.web import serving

PATIENT = RetrySettings(attempts=3, base_seconds=0.001, cap_seconds=0.002)
CONTENT = random.Random(3).randbytes(HEAD_BYTES).hex().encode()


@dataclass(kw_only=True)
class WebServer:
    """What the server sends: ranges or not, after how many bytes each answer breaks, and another answer first."""

    content: bytes = CONTENT
    etag: str | None = '"one"'
    has_ranges: bool = True
    has_length: bool = True
    breaks_after: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    redirect_to: str | None = None
    address: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def web() -> Iterator[WebServer]:
    """Serve one file on this machine, whatever its path."""
    web = WebServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):  # The reader may have heard enough.
                self._answer()

        def _answer(self) -> None:
            web.asked.append(dict(self.headers))
            self.close_connection = True
            if web.redirect_to and self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", web.redirect_to)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if web.answers:
                self.send_response(web.answers.pop(0))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            begin, end = 0, len(web.content)
            if web.has_ranges and "Range" in self.headers:
                first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
                begin, end = int(first), int(last or len(web.content)) + 1
            body = web.content[begin:end]
            is_part = len(body) < len(web.content)
            self.send_response(206 if is_part else 200)
            if is_part:
                self.send_header("Content-Range", f"bytes {begin}-{begin + len(body) - 1}/{len(web.content)}")
            if web.has_length:
                self.send_header("Content-Length", str(len(body)))
            if web.etag:
                self.send_header("ETag", web.etag)
            self.end_headers()
            self.wfile.write(body[: web.breaks_after.pop(0)] if web.breaks_after else body)

    with serving(Handler) as web.address:
        yield web


def _read(url: str) -> tuple[bytes, str]:
    """Return all that a URL gives, and the message of the fault that ended it, if one did."""
    try:
        with opened(named(url)[0], PATIENT) as stream:
            return read_all(stream)
    except SourceError as error:
        return b"", str(error)


def test_a_url_is_read_like_a_file(web: WebServer) -> None:
    """Its size is known if the server reports it, compression is recognised by content, and it can be read again."""
    url = f"http://{web.address}/a.json"
    assert _read(url) == (CONTENT, "")
    with opened(named(url)[0]) as stream:
        assert (stream.size, stream.is_repeatable, stream.plain_path) == (len(CONTENT), True, None)
    web.content = gzip.compress(CONTENT)
    assert _read(url) == (CONTENT, "")
    web.has_length = False
    assert _read(url) == (CONTENT, "")


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_broken_transfer_continues_where_it_stopped(web: WebServer, has_ranges: bool) -> None:
    """A server with ranges is asked for the rest; what another sends again is passed over; nothing comes twice."""
    web.has_ranges = has_ranges
    web.breaks_after = [100_000, 1_500_000, 1_700_000] if not has_ranges else [100_000, 1_400_000, 9]
    assert _read(f"http://{web.address}/a.json") == (CONTENT, "")
    if has_ranges:
        assert [asked.get("Range") for asked in web.asked] == [
            None,
            "bytes=100000-",
            "bytes=1500000-",
            "bytes=1500009-",
        ]


def test_a_url_that_changes_while_it_is_read_is_a_fault(web: WebServer) -> None:
    """The rest of another version is never taken for the rest of this one; what came before is given out."""
    web.breaks_after = [1_200_000]
    url = f"http://{web.address}/a.json"
    with opened(named(url)[0], PATIENT) as stream:
        web.etag = '"two"'
        given, fault = read_all(stream)
    assert fault == f"cannot read {url}: the source changed while it was read"
    assert given == CONTENT[: len(given)]
    assert len(given) > HEAD_BYTES


def test_without_a_version_nothing_is_resumed(web: WebServer) -> None:
    """A server that tells neither ETag nor time may have other bytes by now."""
    web.etag = None
    web.breaks_after = [1_200_000]
    given, fault = _read(f"http://{web.address}/a.json")
    assert given == CONTENT[: len(given)]
    assert "the server reports no version to continue with" in fault


def test_a_server_that_stays_away_is_a_fault(web: WebServer) -> None:
    """After the last try the fault comes after the received bytes; a try that receives some restarts the count."""
    web.breaks_after = [1_200_000, 0, 0, 0, 0]
    given, fault = _read(f"http://{web.address}/a.json")
    assert given == CONTENT[: len(given)]
    assert fault.endswith("/a.json: the connection was closed too early")
    assert len(web.asked) == 1 + PATIENT.attempts - 1


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        ([503, 429], ""),
        ([503, 503, 503], "the server answers 503 service unavailable"),
        ([404], "the server answers 404 not found"),
        ([401], "the server answers 401 unauthorized"),
    ],
)
def test_an_answer_that_is_no_file_is_reported(web: WebServer, answers: list[int], fault: str) -> None:
    """A server that is busy is asked again; another refusal is reported at once, with its number."""
    web.answers = answers
    url = f"http://{web.address}/a.json"
    assert _read(url) == ((b"", f"cannot read {url}: {fault}") if fault else (CONTENT, ""))


def test_nobody_at_the_address_is_reported_at_once() -> None:
    """A connection that is refused is no reason to wait: the address is more likely wrong."""
    assert _read("http://127.0.0.1:9/a.json") == (b"", "cannot read http://127.0.0.1:9/a.json: connection refused")


def test_a_secret_in_a_url_is_used_and_never_reported(web: WebServer) -> None:
    """User and password go to the host and port that they were given for; the name of a source has neither."""
    source = named(f"http://ann:p%40ss@{web.address}/a.json?sig=SECRET#x")[0]
    assert source.name == f"http://{web.address}/a.json?..."
    assert "SECRET" not in repr(source)
    with opened(source):
        pass
    assert web.asked[0]["Authorization"] == f"Basic {base64.b64encode(b'ann:p@ss').decode()}"
    web.redirect_to = f"http://{web.address}/elsewhere"
    with opened(named(f"http://ann:pass@{web.address}/moved")[0]):
        pass
    assert [("Authorization" in asked) for asked in web.asked[1:]] == [True, True]
    web.redirect_to = f"http://ann:pass@localhost:{web.address.partition(':')[2]}/elsewhere"
    with opened(named(f"http://ann:pass@{web.address}/moved")[0]):
        pass
    assert [("Authorization" in asked) for asked in web.asked[3:]] == [True, False]


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/a.json", "gopher://a/"])
def test_a_redirect_leads_to_http_only(web: WebServer, address: str) -> None:
    """A redirect to a file of this machine, or to another protocol, is not followed."""
    web.redirect_to = address
    given, fault = _read(f"http://{web.address}/moved")
    assert given == b""
    assert "an address that is not http or https" in fault
    assert address not in fault


def test_redirects_in_a_circle_end(web: WebServer) -> None:
    """Redirects that lead back are a fault."""
    web.redirect_to = f"http://{web.address}/moved"
    assert "the server redirects in a circle" in _read(web.redirect_to)[1]


def test_a_range_is_read_as_it_comes(web: WebServer) -> None:
    """A range is whole, or shorter where the content ends; one whose transfer breaks is read again."""
    url = f"http://{web.address}/a.json"
    assert remote.read_range(url, 5, len(CONTENT) - 9, PATIENT) == CONTENT[5:-4]
    assert remote.read_range(url, len(CONTENT) - 2, 10, PATIENT) == CONTENT[-2:]
    web.breaks_after = [0, 300_000]
    assert remote.read_range(url, 7, 500_000, PATIENT) == CONTENT[7:500_007]
    web.breaks_after = [100] * PATIENT.attempts
    with pytest.raises(SourceError, match="the connection was closed too early"):
        remote.read_range(url, 0, 1_000, PATIENT)


def _fault_of_range(url: str) -> str:
    with pytest.raises(SourceError) as caught:
        remote.read_range(url, 0, 1 << 20, PATIENT)
    return str(caught.value)


@pytest.mark.parametrize("drips", ["head", "body", "range"])
def test_a_server_that_drips_is_a_fault(monkeypatch: pytest.MonkeyPatch, drips: str) -> None:
    """A server that sends a byte now and then does not hold a load for ever, neither before its content nor in it."""
    monkeypatch.setattr(transfers, "NETWORK_SECONDS", 0.3)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            with suppress(OSError):
                while not ended.is_set():
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        connection.sendall(b"HTTP/1.1 206 OK\r\nContent-Length: 100000000\r\nETag: 1\r\n")
                        connection.sendall(b"Content-Range: bytes 0-99999999/100000000\r\n")
                        connection.sendall(b"X-Odd: " if drips == "head" else b"\r\n")
                        while not ended.wait(0.02):
                            connection.sendall(b"x")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/a.json"
            fault = _fault_of_range(url) if drips == "range" else _read(url)[1]
        finally:
            ended.set()
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert fault.endswith("/a.json: no answer in time")


def test_a_slow_reader_is_no_slow_server(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time in which the load does other work does not count."""
    monkeypatch.setattr(transfers, "NETWORK_SECONDS", 0.1)
    with opened(named(f"http://{web.address}/a.json")[0], PATIENT) as stream:
        begin = stream.read(10)
        time.sleep(0.3)  # The time is what is tested.
        rest, fault = read_all(stream)
    assert (begin + rest, fault) == (CONTENT, "")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/a.json", "URLs with ftp:// cannot be read"),
        ("https:///a.json", "expected https:// and a host or bucket after it"),
        ("https://[::1/a.json", "expected https:// and a host or bucket after it"),
        ("http://host:port/a.json", "expected http:// and a host or bucket after it"),
    ],
)
def test_a_url_that_cannot_be_meant_is_wrong_usage(url: str, message: str) -> None:
    """What is wrong with a URL before anything is asked is exit code 2."""
    with pytest.raises(UsageError, match=message):
        named(url)


def test_a_missing_driver_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the command that installs the driver of an object store."""

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    for scheme, package in (("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs"), ("abfs", "adlfs")):
        with pytest.raises(UsageError) as caught:
            named(f"{scheme}://exports/a.json")
        assert caught.value.hint == f"pip install {package}"


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """Let moto replace S3, with a bucket `exports`; give a client of it."""
    with s3_replaced("exports") as client:
        yield client


def test_objects_of_a_store_are_sources(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object is read block by block, compressed or not; a pattern and a folder name all that match, sorted."""
    monkeypatch.setattr(transfers, "STORE_BLOCK_BYTES", 300_000)
    s3.put_object(Bucket="exports", Key="day/b.json", Body=CONTENT)
    s3.put_object(Bucket="exports", Key="day/a.json", Body=gzip.compress(CONTENT))
    s3.put_object(Bucket="exports", Key="day/deep/c.json", Body=b"[]")
    names = ["s3://exports/day/a.json", "s3://exports/day/b.json"]
    assert [each.name for each in named("s3://exports/day/*.json")] == names
    assert [each.name for each in named("s3://exports/day/")] == names
    for name in names:
        assert _read(name) == (CONTENT, "")
    with opened(named(names[1])[0]) as stream:
        assert (stream.size, stream.is_repeatable) == (len(CONTENT), True)
    for none in ("s3://exports/none.json", "s3://no-bucket/a.json"):
        assert _read(none) == (b"", f"cannot read {none}: there is no such file")
    assert _read("s3://exports/none*") == (b"", "no file matches the pattern s3://exports/none*")


def test_an_object_that_is_replaced_while_it_is_read_is_a_fault(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No part of a later version passes for the end of this one, not even one of the same size."""
    monkeypatch.setattr(transfers, "STORE_BLOCK_BYTES", 300_000)
    for later in (CONTENT[::-1], CONTENT[:-1]):
        s3.put_object(Bucket="exports", Key="a.json", Body=CONTENT)
        with opened(named("s3://exports/a.json")[0], PATIENT) as stream:
            s3.put_object(Bucket="exports", Key="a.json", Body=later)
            given, fault = read_all(stream)
        assert fault == "cannot read s3://exports/a.json: the source changed while it was read"
        assert given == CONTENT[: len(given)]


def test_a_range_of_an_object_is_read_by_a_signed_address(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address has the signature that all regions take; the driver reads where the store refuses it."""
    name = "s3://exports/day of/ä.json"
    s3.put_object(Bucket="exports", Key="day of/ä.json", Body=CONTENT)
    monkeypatch.setattr(transfers, "_not_signed", set())
    addresses: list[str] = []
    http_range = transfers.http_range

    def asked(address: str, at: int, length: int) -> bytes:
        addresses.append(address)
        return http_range(address, at, length)

    monkeypatch.setattr(transfers, "http_range", asked)
    assert remote.read_range(name, 5, 1_000_000, PATIENT) == CONTENT[5:1_000_005]
    assert remote.read_range(name, len(CONTENT) - 2, 10, PATIENT) == CONTENT[-2:]
    assert [("X-Amz-Algorithm=AWS4-HMAC-SHA256&" in each, "&X-Amz-Signature=" in each) for each in addresses] == [
        (True, True)
    ] * 2
    with pytest.raises(SourceError, match="there is no such file"):
        remote.read_range("s3://exports/none.json", 0, 10, PATIENT)
    assert transfers._not_signed == set()

    def refused(address: str, at: int, length: int) -> bytes:
        addresses.append(address)
        raise transfers.PermanentError("the server answers 403 forbidden")

    monkeypatch.setattr(transfers, "http_range", refused)
    asked_before = len(addresses)
    for _ in range(2):
        assert remote.read_range(name, 5, 10, PATIENT) == CONTENT[5:15]
    assert len(addresses) == asked_before + 1


def test_missing_credentials_are_reported(s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without credentials a store is not read, and the error says so."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    given, fault = _read("s3://exports/a.json")
    s3fs.S3FileSystem.clear_instance_cache()
    assert (given, fault) == (b"", "cannot read s3://exports/a.json: credentials are missing or incomplete")
