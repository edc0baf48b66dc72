"""The description of the service (OpenAPI 3.1), made from the catalogue: each aggregate with grain and columns."""

from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi

from etl.serving import events, tokens
from etl.serving import openapi_routes as routes
from etl.serving.filters import OPERATORS
from etl.serving.tables import Column, Table
from etl.serving.watching import Watch

PATH = "/v1/openapi.json"

_SCHEMAS: dict[str, dict[str, Any]] = {
    "smallint": {"type": "integer", "format": "int32"},
    "integer": {"type": "integer", "format": "int32"},
    "bigint": {"type": "integer", "format": "int64"},
    "numeric": {"type": "number"},
    "real": {"type": "number", "format": "float"},
    "double precision": {"type": "number", "format": "double"},
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "timestamp with time zone": {"type": "string", "format": "date-time"},
}
_OPERATOR = rf"^(not\.)?({'|'.join([*OPERATORS, 'in', 'is'])})\."
_DESCRIPTION = """The precomputed tables of logistics-etl. Each answer says which version of a table it has (ETag,
X-Version), through when its facts reach (X-Facts-Through), how many buckets wait for the next refresh
(X-Pending-Buckets) and how many rejected records are missing (X-Rejected-Waiting). Errors are problem documents."""


class Description:
    """Answers with the description, and makes it again when an aggregate was added, changed or removed."""

    def __init__(self, app: FastAPI, watch: Watch) -> None:
        self._app = app
        self._watch = watch
        self._made_of: object = None
        self._document: dict[str, Any] = {}
        self._bytes = b""

    async def answer(self, request: Request) -> Response:
        """Send the description."""
        request.scope["etl.route"] = PATH
        self.document()
        return Response(self._bytes, media_type="application/json", headers={"Cache-Control": "no-cache"})

    def document(self) -> dict[str, Any]:
        """Return the description of the aggregates as they are now."""
        tables = self._watch.tables
        if self._made_of != tables or not self._bytes:
            self._document = describe(self._app, list(tables.values()))
            self._bytes = msgspec.json.encode(self._document)
            self._made_of = tables
        return self._document


def describe(app: FastAPI, tables: list[Table]) -> dict[str, Any]:
    """Return the description of a service with these aggregates."""
    document = get_openapi(
        title=app.title,
        version="1",
        openapi_version="3.1.0",
        description=" ".join(_DESCRIPTION.split()),
        routes=app.routes,
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = routes.problem_schema()
    schemas["TextRow"] = _text_row_schema()
    for path in document["paths"].values():
        for method, operation in path.items():
            operation["responses"].pop("422", None)
            operation["responses"] |= routes.problems(["401", "403", "404", "422", "429", "503", "504"])
            if method == "post":
                operation["responses"] |= routes.problems(["409", "413"])
    for table in tables:
        schemas[f"{table.name}_row"] = _row_schema(table)
        schemas[f"{table.name}_page"] = _page_schema(table)
        document["paths"][f"/v1/aggregates/{table.name}/rows"] = {"get": _operation(table)}
    document["paths"] |= {
        "/v1/facts/{table}": {"get": routes.facts()},
        "/v1/stream": {"get": routes.stream()},
        tokens.PATH: {"post": routes.token()},
        events.ROUTE: routes.events(),
        **routes.states(),
    }
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{}, {"bearer": []}]
    return document


def schema_of(column: Column, *, is_required: bool) -> dict[str, Any]:
    """Return the schema of the values of a column."""
    if column.type.endswith("[]"):
        schema: dict[str, Any] = {"type": "array", "items": {}}
    elif column.kind in {"json", "jsonb"}:
        return {"description": column.comment}
    else:
        schema = dict(_SCHEMAS.get(column.kind, {"type": "string"}))
    if not is_required:
        schema["type"] = [schema["type"], "null"]
    schema["description"] = column.comment
    if column.unit:
        schema["x-unit"] = column.unit
    schema["x-postgresql-type"] = column.type
    return schema


def _row_schema(table: Table) -> dict[str, Any]:
    properties = {
        column.name: schema_of(column, is_required=column.name in table.key) for column in table.columns.values()
    }
    return {"type": "object", "description": table.aggregate.grain, "properties": properties}


def _text_row_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "a row with numbers=text: the same columns, and texts instead of numbers",
        "additionalProperties": {"type": ["string", "boolean", "null", "array", "object"]},
    }


def _page_schema(table: Table) -> dict[str, Any]:
    text, number = {"type": ["string", "null"]}, {"type": "integer"}
    return {
        "type": "object",
        "required": ["aggregate", "version", "rows", "next"],
        "properties": {
            "aggregate": {"type": "string", "const": table.name},
            "version": {"type": "integer", "description": "rises only when rows changed"},
            "facts_through": {**text, "description": "end of the newest load that the rows include"},
            "pending_buckets": {**number, "description": "buckets that the next refresh recomputes"},
            "rejected_pending": {**number, "description": "records that are missing because they were rejected"},
            "next": {**text, "description": "the token `after` of the next page; null: this is the last one"},
            "columns": {"type": "array", "items": {"type": "string"}, "description": "the names, with format=columns"},
            "rows": {
                "type": "array",
                "items": {
                    "anyOf": [
                        {"$ref": f"#/components/schemas/{table.name}_row"},
                        {"$ref": "#/components/schemas/TextRow"},
                        {"type": "array"},
                    ]
                },
            },
        },
    }


def _operation(table: Table) -> dict[str, Any]:
    key = ", ".join(table.key)
    return {
        "tags": ["rows"],
        "summary": table.aggregate.grain,
        "description": f"{table.aggregate.grain} Pages follow the key: {key}.",
        "operationId": f"rows_of_{table.name}",
        "parameters": [*_filters(table), *_parameters(table)],
        "responses": {
            "200": {
                "description": "a page of rows",
                "content": routes.contents({"$ref": f"#/components/schemas/{table.name}_page"}),
            },
            "304": {"description": "the client has these rows already"},
            **routes.problems(routes.OF_ROWS),
        },
    }


def _filters(table: Table) -> list[dict[str, Any]]:
    operators = ", ".join([*OPERATORS, "in", "is", "not.OPERATOR"])
    return [
        routes.parameter(
            column.name,
            f"{column.comment} Given as OPERATOR.VALUE ({operators}); {column.type}.",
            {"type": "string", "pattern": _OPERATOR},
        )
        for column in table.columns.values()
        if column.is_indexed
    ]


def _parameters(table: Table) -> list[dict[str, Any]]:
    columns = list(table.columns)
    return [
        routes.parameter(
            "select",
            "the columns to return, separated by commas; all",
            {"type": "string", "minLength": 1, "examples": [columns[0]]},
        ),
        routes.parameter(
            "order",
            "first columns of the key, each with .asc or .desc, all in one direction; ascending",
            {"type": "string", "examples": [f"{table.key[0]}.desc"]},
        ),
        *routes.common(),
    ]
