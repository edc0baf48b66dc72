"""The parts of the description (OpenAPI) that are written by hand: parameters of rows, problems, and plain routes."""

from typing import Any

from etl.serving.filters import FORMATS, MAX_ROWS, ROWS_OF_A_PAGE

_PROBLEMS = {
    "401": "no key, or one that is not valid",
    "403": "the role may not ask this",
    "400": "the body or the Idempotency-Key is not as announced",
    "408": "the body took too long",
    "404": "there is no such aggregate; the answer names those that there are",
    "409": "another replay runs, a load holds the source, the file does not wait; or the key was used before",
    "413": "the body is too large",
    "406": "the header Accept names no format that there is",
    "415": "the body is no JSON",
    "422": "this cannot be asked; the answer names what can",
    "429": "the key asks too often",
    "503": "the service or the database is busy or away, or the aggregate was never computed: ask again",
    "504": "the database took longer than the limit",
}
OF_ROWS = ["401", "403", "404", "406", "422", "429", "503", "504"]


def common() -> list[dict[str, Any]]:
    """Return the parameters of all tables."""
    return [
        parameter(
            "limit",
            "rows of a page",
            {"type": "integer", "minimum": 1, "maximum": MAX_ROWS, "default": ROWS_OF_A_PAGE},
        ),
        parameter("after", "the token `next` of the page before", {"type": "string", "minLength": 1}),
        parameter("format", "instead of the header Accept", {"type": "string", "enum": list(FORMATS)}),
        parameter("numbers", "text: numbers as texts, with every digit", {"type": "string", "enum": ["text"]}),
        parameter(
            "for",
            "spreadsheet: in CSV, a quote before texts that a spreadsheet would run",
            {"type": "string", "enum": ["spreadsheet"]},
        ),
    ]


def parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a parameter in the query string."""
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def contents(page: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a page of rows in each format; `page` is its schema as JSON."""
    kinds = {kind.partition(";")[0] for name, kind in FORMATS.items() if name not in {"json", "columns"}}
    return {"application/json": {"schema": page}} | {kind: {"schema": {"type": "string"}} for kind in sorted(kinds)}


def facts() -> dict[str, Any]:
    """Return the description of the route of facts."""
    table = {"name": "table", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "tags": ["rows"],
        "summary": "Rows of a table that a dataset fills.",
        "description": "Filters, pages and formats are those of aggregates. Facts have no version and are not kept.",
        "operationId": "rows_of_facts",
        "parameters": [
            {**table, "description": "the table with its schema, such as logistics.shipments"},
            parameter("select", "the columns to return, separated by commas; all", {"type": "string"}),
            parameter("order", "first columns of the key, all in one direction; ascending", {"type": "string"}),
            *(each for each in common()),
        ],
        "responses": {
            "200": {"description": "a page of rows", "content": contents({"type": "object"})},
            **problems(OF_ROWS),
        },
    }


def stream() -> dict[str, Any]:
    """Return the description of the stream of refreshes."""
    return {
        "tags": ["aggregates"],
        "summary": "Each refresh that changed rows, as server-sent events.",
        "description": "An event `state` for each aggregate at first; then `refresh` when rows changed, and `loaded`"
        " after loads, at most twice a second.",
        "operationId": "stream",
        "responses": {
            "200": {"description": "events", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
            **problems(["401", "403", "429", "503"]),
        },
    }


def token() -> dict[str, Any]:
    """Return the description of the route of tokens."""
    text = {"type": "string"}
    asked = {"type": "object", "required": ["refresh_token"], "properties": {"refresh_token": text}}
    issued = {
        "type": "object",
        "required": ["access_token", "token_type", "expires_in", "refresh_token"],
        "properties": {
            "access_token": text,
            "token_type": {"const": "Bearer"},
            "expires_in": {"type": "integer"},
            "refresh_token": text,
        },
    }
    return {
        "tags": ["tokens"],
        "summary": "A token for a key, or for a refresh token, which is used up by that. Only with --auth keys.",
        "operationId": "token",
        "requestBody": {
            "required": False,
            "content": {"application/json": {"schema": {**asked, "additionalProperties": False}}},
        },
        "responses": {
            "200": {"description": "tokens", "content": {"application/json": {"schema": issued}}},
            **problems(["401", "403", "404", "413", "415", "422", "429", "503"]),
        },
    }


def events() -> dict[str, Any]:
    """Return the description of the routes of events, which have one address: a dataset, or the place of an event."""
    text: dict[str, Any] = {"type": "string"}
    name = {"name": "name", "in": "path", "required": True, "schema": text}
    return {"post": _send_events(name), "get": _fate_of_event(name)}


def _send_events(name: dict[str, Any]) -> dict[str, Any]:
    text, number, event = {"type": "string"}, {"type": "integer"}, {"type": "object"}
    accepted = {
        "type": "object",
        "required": ["stream", "events", "offsets", "is_repeat"],
        "properties": {
            "stream": {"type": ["string", "null"]},
            "events": number,
            "offsets": {"type": "array", "items": number, "description": "the byte at which each begins in the stream"},
            "is_repeat": {"type": "boolean", "description": "an earlier request with the same key has sent them"},
        },
    }
    key = {"name": "Idempotency-Key", "in": "header", "required": False, "schema": {**text, "minLength": 1}}
    kinds = {"application/json": {"anyOf": [event, {"type": "array", "items": event}]}, "application/x-ndjson": text}
    return {
        "tags": ["events"],
        "summary": "Events of a dataset: an object, an array or lines. Only with --collect; for operators.",
        "description": "202: the events are on the disk. Any other answer: none of them is taken.",
        "operationId": "send_events",
        "parameters": [{**name, "description": "the dataset"}, {**key, "description": "makes a repetition harmless"}],
        "requestBody": {"required": True, "content": {kind: {"schema": schema} for kind, schema in kinds.items()}},
        "responses": {
            "202": {"description": "on the disk", "content": {"application/json": {"schema": accepted}}},
            **problems(["400", "401", "403", "404", "408", "409", "413", "415", "422", "429", "503"]),
        },
    }


def _fate_of_event(name: dict[str, Any]) -> dict[str, Any]:
    text, number = {"type": "string"}, {"type": "integer"}
    names = ("run", "loaded_at", "failure", "table", "column", "sqlstate", "reason")
    fate = {
        "type": "object",
        "required": ["stream", "offset", "status"],
        "properties": {"stream": text, "offset": number, "status": text, **dict.fromkeys(names, text)},
    }
    return {
        "tags": ["events"],
        "summary": "What became of an event. Only with --collect; for operators.",
        "operationId": "fate_of_event",
        "parameters": [{**name, "description": "the place of the event: STREAM:OFFSET"}],
        "responses": {
            "200": {"description": "its state", "content": {"application/json": {"schema": fate}}},
            **problems(["401", "403", "404", "429", "503"]),
        },
    }


def states() -> dict[str, Any]:
    """Return the addresses for those who watch the service. The first two need no key."""
    state = {
        "application/json": {
            "schema": {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
        }
    }
    found = {
        "/healthz": ("health", "The process runs.", {"200": {"description": "it runs", "content": state}}),
        "/readyz": (
            "readiness",
            "The database answers.",
            {
                "200": {"description": "it answers", "content": state},
                "503": {"description": "it does not", "content": state},
            },
        ),
        "/metrics": (
            "metrics",
            "Metrics for Prometheus.",
            {
                "200": {"description": "metrics", "content": {"text/plain": {"schema": {"type": "string"}}}},
                **problems(["401", "403", "429"]),
            },
        ),
    }
    return {
        path: {
            "get": {
                "tags": ["state"],
                "summary": summary,
                "operationId": name,
                "responses": responses,
                **({} if path == "/metrics" else {"security": [{}]}),
            }
        }
        for path, (name, summary, responses) in found.items()
    }


def problems(statuses: list[str]) -> dict[str, Any]:
    """Return the description of the answers that are problems, by their status."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _PROBLEMS[status], "content": content} for status in statuses}


def problem_schema() -> dict[str, Any]:
    """Return the description of the schema of a problem."""
    return {
        "type": "object",
        "description": "a problem document (RFC 9457)",
        "required": ["title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "request_id": {"type": "string"},
        },
    }
