"""`GET /v1/lanes/{lane}/similar`: the lanes that behave like a lane, by the scaled features of lane_features."""

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, NoReturn

import msgspec
from fastapi import APIRouter, Path, Query, Request
from psycopg.rows import dict_row

from etl import queries
from etl.serving.filters import wrong
from etl.serving.identity import Identity
from etl.serving.pool import Connection, Sessions
from etl.serving.problems import ProblemError

PATH = "/v1/lanes/{lane}/similar"

_SQL = queries.load("serving")
_MOST = 100
_LANE = (
    "country and city of origin and destination as a JSON list, in percent encoding, such as "
    '["DE","Berlin","PL","Łódź"]; (none) for a name that is missing'
)
# As the aggregate says: percentiles of fewer are chance.
_LEAST_TRANSITS = 20


@dataclass(frozen=True, kw_only=True)
class SimilarLane:
    """A lane with at least 20 transits. `distance`: 0 is equal in all the `count_compared` features that both have."""

    origin_country: str
    origin_city: str
    destination_country: str
    destination_city: str
    distance: float
    count_compared: int
    count_shipments: int
    count_transits: int
    p50_transit_hours: float
    p90_transit_hours: float
    on_time_share: float | None
    cost_per_kg: float | None
    avg_promised_hours: float | None


@dataclass(frozen=True, kw_only=True)
class SimilarLanes:
    """The lanes most like a lane in a quarter, the nearest first.

    `quarter` and `count_transits` are null where no other lane can be compared. `has_little_data`: the lane itself has
    fewer than 20 transits in the quarter, so that it is compared without them.
    """

    version: int
    facts_through: str | None
    pending_buckets: int
    lane: list[str]
    quarter: date | None
    count_transits: int | None
    has_little_data: bool | None
    similar: list[SimilarLane]


def router(sessions: Sessions) -> APIRouter:
    """Return the route of similar lanes."""
    routes = APIRouter(tags=["aggregates"])

    # A name may have a slash.
    @routes.get(PATH.replace("{lane}", "{lane:path}"))
    async def similar(
        request: Request,
        lane: Annotated[str, Path(description=_LANE)],
        limit: Annotated[int, Query(ge=1, le=_MOST, description="lanes of the answer")] = 5,
        quarter: Annotated[
            date | None, Query(description="a day of the quarter; without it the newest quarter with enough data")
        ] = None,
    ) -> SimilarLanes:
        """Say which lanes are most like a lane: hours, punctuality, cost, promise, volume and season."""
        for name in request.query_params:
            if name not in {"limit", "quarter"}:
                raise wrong(name[:100], "this address has the parameters limit and quarter")
        names = _names(lane)
        asked = {"lane": msgspec.json.encode(names).decode(), "limit": limit, "quarter": quarter}

        async def read(connection: Connection) -> list[dict[str, Any]]:
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(_SQL["similar_lanes"], asked)
                return await cursor.fetchall()

        identity: Identity = request.scope["etl.identity"]
        return _answer(names, await sessions.read(identity.database_role, read))

    return routes


def _names(lane: str) -> list[str]:
    """Return the four names of a lane.

    Raises ProblemError.
    """
    try:
        names = msgspec.json.decode(lane, type=list[str])
    except (msgspec.DecodeError, UnicodeError):
        _refuse()
    if len(names) != 4 or "\x00" in "".join(names):
        _refuse()
    return names


def _refuse() -> NoReturn:
    raise wrong("lane", f"expected {_LANE}")


def _answer(names: list[str], rows: list[dict[str, Any]]) -> SimilarLanes:
    """Return the answer for the rows of the statement, of which the first has what is said once.

    Raises ProblemError.
    """
    if not rows or rows[0]["version"] is None:
        raise ProblemError(503, "lane_features was never computed: `etl precalculate`", {"Retry-After": "10"})
    first = rows[0]
    if not first["is_known"]:
        raise ProblemError(404, "there is no shipment of such a lane in the quarter, or in any")
    transits = first["asked_transits"]
    fields = SimilarLane.__dataclass_fields__
    return SimilarLanes(
        version=first["version"],
        facts_through=first["facts_through"],
        pending_buckets=first["pending_buckets"],
        lane=names,
        quarter=first["quarter"],
        count_transits=transits,
        has_little_data=None if transits is None else transits < _LEAST_TRANSITS,
        similar=[SimilarLane(**{name: row[name] for name in fields}) for row in rows if row["distance"] is not None],
    )
