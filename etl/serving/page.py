"""The page for people at `/`: files that are built from `web/` and need no key, because they have no data."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request, Response
from zlib_ng import zlib_ng

from etl.serving.kept import matches, takes_gzip

FOLDER = Path(__file__).parent / "static" / "page"

ADDRESSES = {
    "/": "index.html",
    "/static/page.js": "page.js",
    "/static/page.css": "page.css",
    "/static/icon.svg": "icon.svg",
}
"""The file of each address."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_GZIP = 31


@dataclass(frozen=True, kw_only=True)
class _File:
    body: bytes
    compressed: bytes
    etag: bytes
    headers: dict[str, str]


def add(app: FastAPI) -> None:
    """Add the page to an application."""
    files = {address: _read(FOLDER / name) for address, name in ADDRESSES.items()}

    async def answer(request: Request) -> Response:
        file = files[request.url.path]
        if matches(request.headers.get("if-none-match", "").encode("latin-1"), file.etag):
            return Response(status_code=304, headers=file.headers)
        if takes_gzip(request.headers.get("accept-encoding", "").encode("latin-1")):
            return Response(file.compressed, headers={**file.headers, "Content-Encoding": "gzip"})
        return Response(file.body, headers=file.headers)

    for address in ADDRESSES:
        app.add_route(address, answer, methods=["GET"])


def _read(path: Path) -> _File:
    body = path.read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
    headers = {"Content-Type": _TYPES[path.suffix], "ETag": etag}
    headers |= {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    return _File(body=body, compressed=zlib_ng.compress(body, 9, _GZIP), etag=etag.encode(), headers=headers)
