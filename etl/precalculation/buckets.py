"""The kinds of buckets, in one table: what a bucket is, how changes are noted for it, and how buckets become ranges.

PostgreSQL computes the bucket of a noted time (the function `etl.bucket_of`, made from this table). Knows no database
and no aggregate.
"""

from collections.abc import Mapping
from typing import Literal

from psycopg import sql

from etl.errors import UsageError
from etl.quick_dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Noting:
    """How the changes of facts are noted for the buckets of a kind.

    The expression of a `fact` line has the type `type`; `hint` is its name in messages. Triggers note the value of
    `value`, in which {} is that expression, in the column `column` of etl.touched. A key column of buckets has the type
    `bucket_type`.
    """

    hint: str
    type: Literal["date", "timestamp"]
    value: str
    column: Literal["days", "hours"]
    bucket_type: Literal["date", "timestamptz"]


_BY_DAY = Noting(hint="DAY", type="date", value="{}", column="days", bucket_type="date")
# A statement that changes many rows notes each hour once.
_BY_HOUR = Noting(
    hint="TIME", type="timestamp", value="date_trunc('hour', {})", column="hours", bucket_type="timestamptz"
)


@dataclass(frozen=True, kw_only=True)
class BucketRange:
    """Buckets without a gap between them: the first, and the first that comes after them, as PostgreSQL writes them."""

    first: str
    until: str


# From the first day that PostgreSQL knows. What is no date, such as -infinity, is in no bucket.
EVERYTHING = BucketRange(first="4714-11-24 BC", until="infinity")


@dataclass(frozen=True, kw_only=True)
class BucketKind:
    """How an aggregate is divided into buckets.

    `name` is the word in the head of an aggregate, the key column that holds the buckets, and a unit of PostgreSQL's
    `date_trunc`. `description` says what one bucket is. `noting` is None where the aggregate is one bucket. `length` is
    an SQL interval, where 1 `name` is none.
    """

    name: str
    description: str
    noting: Noting | None
    length: str = ""

    @property
    def step(self) -> sql.Composable:
        """The length of a bucket as an SQL interval; null where no bucket follows another."""
        return sql.SQL("{}::interval").format(sql.Literal((self.length or f"1 {self.name}") if self.noting else None))

    @property
    def limit_type(self) -> sql.SQL:
        """The SQL type of the limits of a range."""
        return sql.SQL(self.noting.type if self.noting else "date")

    def limit(self, value: str) -> sql.Composable:
        """Return one limit of a range as an SQL value in UTC, without a time zone."""
        return sql.SQL("{} {}").format(self.limit_type, sql.Literal(value))

    def instant(self, value: str) -> sql.Composable:
        """Return one limit of a range as an SQL instant."""
        return sql.SQL("({}::timestamp at time zone 'UTC')").format(self.limit(value))

    def condition(self, column: sql.Composable, buckets: BucketRange) -> sql.Composable:
        """Return the SQL condition that a key column is in a range of buckets."""
        if self.noting is None or buckets == EVERYTHING:
            return sql.SQL("true")
        bound = self.instant if self.noting.bucket_type == "timestamptz" else self.limit
        return sql.SQL("{0} >= {1} and {0} < {2}").format(column, bound(buckets.first), bound(buckets.until))


ALL = BucketKind(name="all", description="the whole aggregate", noting=None)

KINDS: Mapping[str, BucketKind] = {
    kind.name: kind
    for kind in (
        BucketKind(name="hour", description="an hour (UTC)", noting=_BY_HOUR),
        BucketKind(name="day", description="a day (UTC)", noting=_BY_DAY),
        BucketKind(name="week", description="an ISO week, named by its Monday", noting=_BY_DAY),
        BucketKind(name="month", description="a month, named by its first day", noting=_BY_DAY),
        BucketKind(name="quarter", description="a quarter, named by its first day", noting=_BY_DAY, length="3 months"),
        ALL,
    )
}
"""All kinds by name, the smallest first."""


def kind_of(name: str) -> BucketKind:
    """Return the kind of this name.

    Raises UsageError for a name that this installation does not know.
    """
    if name not in KINDS:
        raise UsageError(
            f"expected a bucket kind ({', '.join(KINDS)}), got {name!r} in etl.aggregates",
            hint="use the version of this tool that installed the aggregate",
        )
    return KINDS[name]
