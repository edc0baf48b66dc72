"""Errors as answers: problem documents (RFC 9457). They name what there is, and never a value of a row or a stack."""

from collections.abc import Mapping
from typing import Any

import msgspec
import psycopg
from fastapi import Response
from psycopg_pool import PoolTimeout, TooManyRequests

from etl.database.sqlstates import code_of

MEDIA_TYPE = "application/problem+json"

RETRY_SECONDS = 1
"""After how many seconds a client should ask again when the service is busy or the database is away."""

_TITLES = {
    304: "not modified",
    400: "wrong request",
    401: "who are you?",
    403: "not allowed",
    404: "not found",
    405: "wrong method",
    406: "no such format",
    409: "not in this state",
    413: "too large",
    414: "address too long",
    415: "wrong type of body",
    422: "cannot be asked",
    429: "too many requests",
    500: "fault of the service",
    503: "not now",
    504: "took too long",
}


class ProblemError(Exception):
    """Answer a request with a problem: its status, a sentence, and members such as the names that there are."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members


def document(problem: ProblemError) -> bytes:
    """Return the body of a problem."""
    title = _TITLES.get(problem.status, "problem")
    return msgspec.json.encode(
        {"type": "about:blank", "title": title, "status": problem.status, "detail": problem.detail} | problem.members
    )


def answer(problem: ProblemError) -> Response:
    """Return a problem as an answer."""
    return Response(document(problem), status_code=problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


def busy(detail: str) -> ProblemError:
    """Return the problem of a service that may answer a moment later."""
    return ProblemError(503, detail, {"Retry-After": str(RETRY_SECONDS)})


def of_database(  # noqa: PLR0911 - one line for each kind of error
    error: psycopg.Error | PoolTimeout | TooManyRequests,
) -> ProblemError:
    """Return the problem that an error of the database is for a client, without the text of the server."""
    if isinstance(error, PoolTimeout | TooManyRequests):
        return busy("all connections to the database are in use")
    code = code_of(error) or ""
    if isinstance(error, psycopg.errors.QueryCanceled):
        return ProblemError(504, "the database did not answer within the time limit; ask for fewer rows")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return ProblemError(403, "your role may not read this table")
    if code[:2] in {"3F", "42"}:
        return busy("the table is missing or being made again; `etl db migrate` makes what is missing")
    if isinstance(error, psycopg.DataError):
        return ProblemError(422, "a value does not fit the type of its column")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return busy("the database cannot be reached now")
    return ProblemError(500, "the database could not answer")
