"""An object store of this machine with one file, as a process of its own: `python -m scripts.benchmark.stores`.

`plain` answers only what a load asks of S3, the size and ranges of an object, and takes little of the processor.
`moto` is the library for tests: for each range it reads the whole object.
"""

import logging
import os
import re
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BUCKET = "bench"
KEY = "bench"
"""The credential, which no store of this kind checks."""


class _Plain(BaseHTTPRequestHandler):
    """HEAD and GET of one object."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    path_of_object: Path

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, *, with_content: bool) -> None:
        if self.path.partition("?")[0] != f"/{BUCKET}/{self.path_of_object.name}":
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = self.path_of_object.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1, size) if asked and asked[2] else size
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{size:x}"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if not with_content:
            return
        self.wfile.flush()
        with self.path_of_object.open("rb") as file:
            while begin < end:
                begin += os.sendfile(self.connection.fileno(), file.fileno(), begin, end - begin)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


def _serve_plain(path: Path) -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Plain,), {"path_of_object": path}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def _serve_moto(path: Path) -> str:
    import boto3  # noqa: PLC0415 - of the tests
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - of the tests

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.Session(KEY, KEY, region_name="us-east-1").client("s3", endpoint_url=address)
    client.create_bucket(Bucket=BUCKET)
    with path.open("rb") as file:
        client.put_object(Bucket=BUCKET, Key=path.name, Body=file)
    client.close()
    return address


def main() -> None:
    """Serve the file until a signal comes; print the address."""
    kind, path = sys.argv[1], Path(sys.argv[2])
    sys.stdout.write({"plain": _serve_plain, "moto": _serve_moto}[kind](path) + "\n")
    sys.stdout.flush()
    signal.pause()


if __name__ == "__main__":
    main()
