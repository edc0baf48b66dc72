"""The page that says how to ask, for people. It has no script, and loads nothing from elsewhere."""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response

from etl.serving.openapi import PATH, Description

_STYLE = Path(__file__).parent / "static" / "style.css"


def add(app: FastAPI, description: Description) -> None:
    """Add the page to an application."""
    style = _STYLE.read_bytes()

    async def docs(_request: Request) -> Response:
        return _page("How to ask", _docs(description.document()))

    async def style_sheet(_request: Request) -> Response:
        return Response(style, media_type="text/css", headers={"Cache-Control": "max-age=3600"})

    for path, endpoint in (("/docs", docs), ("/redoc", docs), ("/static/style.css", style_sheet)):
        app.add_route(path, endpoint, methods=["GET"])


def _page(title: str, body: Iterable[str]) -> Response:
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/static/style.css"></head>'
        f"<body><main><h1>{escape(title)}</h1>{''.join(body)}</main></body></html>"
    )
    return Response(text, media_type="text/html; charset=utf-8")


def _docs(document: dict[str, Any]) -> Iterable[str]:
    yield f"<p>{escape(document['info']['description'])}</p>"
    yield f'<p>The same for programs: <a href="{PATH}">OpenAPI 3.1</a>. <a href="/">The aggregates</a>.</p><ul>'
    for path in document["paths"]:
        yield f'<li><a href="#{_anchor(path)}">{escape(path)}</a></li>'
    yield "</ul>"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f'<section id="{_anchor(path)}"><h2>{method.upper()} {escape(path)}</h2>'
            yield f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>"
            yield from _parameters(operation.get("parameters", []))
            yield from _columns(path, document)
            yield "</section>"


def _parameters(parameters: list[dict[str, Any]]) -> Iterable[str]:
    if not parameters:
        return
    yield "<table><caption>Parameters</caption><thead><tr>"
    yield "<th scope=col>name</th><th scope=col>what it is</th></tr></thead>"
    for each in parameters:
        schema = each.get("schema", {})
        limits = [f"{word} {schema[word]}" for word in ("minimum", "maximum", "default") if word in schema]
        text = ". ".join(filter(None, [each.get("description", ""), ", ".join(limits)]))
        yield f"<tr><th scope=row>{escape(each['name'])}</th><td>{escape(text)}</td></tr>"
    yield "</table>"


def _columns(path: str, document: dict[str, Any]) -> Iterable[str]:
    schema = document["components"]["schemas"].get(f"{path.removesuffix('/rows').rpartition('/')[2]}_row")
    if schema is None or not path.endswith("/rows"):
        return
    yield "<table><caption>Columns</caption><thead><tr><th scope=col>column</th><th scope=col>type</th>"
    yield "<th scope=col>what it is</th></tr></thead>"
    for name, column in schema["properties"].items():
        cells = (column.get("x-postgresql-type", ""), column["description"])
        yield f"<tr><th scope=row>{escape(name)}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</table>"


def _anchor(path: str) -> str:
    return escape("".join(letter if letter.isalnum() else "-" for letter in path).strip("-"))
