"""A company that changes its facts at random, to show that incremental aggregates equal full ones."""

import random
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date, timedelta

import psycopg

from etl.precalculation.catalogue import Aggregate
from etl.precalculation.refresh import refresh
from tests.support.facts import another, differences
from tests.support.faults import Connection

START = date(2026, 1, 28)
DAYS = 40


def ship(connection: Connection, shipment_id: str, created_at: str, log_id: str | None = None, weight: int = 1) -> None:
    """Insert a shipment, or change it."""
    connection.execute(
        "insert into logistics.shipments (shipment_id, created_at, log_id, weight_kg, carrier, etl_run, etl_batch, "
        "etl_place) values (%s, %s, %s, %s, 'A', 1, 0, 1) on conflict (shipment_id) do update set "
        "created_at = excluded.created_at, log_id = excluded.log_id, weight_kg = excluded.weight_kg",
        [shipment_id, created_at, log_id, weight],
    )


def trip(connection: Connection, log_id: str, day: str) -> None:
    """Insert a trip, or move it to another day."""
    connection.execute(
        "insert into logistics.vehicle_logs (log_id, vehicle_id, trip_date, etl_run, etl_batch, etl_place) "
        "values (%s, 'V1', %s, 1, 0, 1) on conflict (log_id) do update set trip_date = excluded.trip_date",
        [log_id, day],
    )


class Company:
    """Changes the facts at random, within forty days; `story` is the list of its changes."""

    def __init__(self, seed: int, start: date = START) -> None:
        self.random = random.Random(seed)
        self.start = start
        self.story: list[str] = []

    def day(self) -> str:
        """Return one of the days."""
        return str(self.start + timedelta(days=self.random.randrange(DAYS)))

    def time(self) -> str:
        """Return one of the days at its beginning, or a time near the end of one of its first hours."""
        if self.random.random() < 0.3:
            return self.day()
        hour, end = self.random.randrange(4), self.random.choice(["00:00", "30:00", "59:59.999999"])
        return f"{self.day()} {hour:02}:{end}{self.random.choice(['Z', '+05:30', '-03:00'])}"

    def some(self, letter: str, among: int = 60) -> str:
        """Return one of several names."""
        return f"{letter}{self.random.randrange(among)}"

    def work(self, connection: Connection) -> None:
        """Make one random change of the facts."""
        action = self.random.choice(
            [
                self.merge,
                self.merge,
                self.trips,
                self.trips,
                self.correct,
                self.move,
                self.forget,
                self.replay,
                self.copy,
                self.promise,
                self.track,
                self.track,
            ]
        )
        self.story.append(action.__name__)
        action(connection)

    def merge(self, connection: Connection) -> None:
        """Insert shipments, or move them to another day and trip."""
        rows = sorted({self.some("S"): self.time() for _ in range(self.random.randrange(1, 9))}.items())
        for shipment, time in rows:
            log = self.some("L", 20) if self.random.random() < 0.7 else None
            ship(connection, shipment, time, log, self.random.randrange(1, 99))

    def replay(self, connection: Connection) -> None:
        """Load an existing record again, unchanged."""
        connection.execute(
            "update logistics.shipments set etl_run = etl_run + 1 where shipment_id = %s", [self.some("S")]
        )

    def copy(self, connection: Connection) -> None:
        """Append shipments."""
        lines = "".join(
            f"C{self.random.getrandbits(60)}\t{self.time()}\t{self.some('L', 20)}\t1\t0\t1\n" for _ in range(5)
        )
        statement = (
            "copy logistics.shipments (shipment_id, created_at, log_id, etl_run, etl_batch, etl_place) from stdin"
        )
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(lines)

    def promise(self, connection: Connection) -> None:
        """Promise another day for shipments, and say what was delivered of them."""
        connection.execute(
            "update logistics.shipments set etl_first_promised_at = coalesce(etl_first_promised_at, promised_at), "
            "promised_at = %s, ordered_quantity = 3, delivered_quantity = %s where shipment_id = any(%s)",
            [self.time(), self.random.choice([None, 2, 3]), [self.some("S") for _ in range(3)]],
        )

    def track(self, connection: Connection) -> None:
        """Record events at hubs and exceptions, give events to another shipment, or delete one."""
        if self.random.random() < 0.2:
            connection.execute("delete from logistics.tracking_events where event_id = %s", [self.some("E")])
        for event in sorted({self.some("E") for _ in range(4)}):
            code, exception = self.random.choice([("HUB_ARRIVED", None), ("HUB_DEPARTED", None), ("EXCEPTION", "X")])
            connection.execute(
                "insert into logistics.tracking_events (event_id, shipment_id, event_code, exception_code, "
                "occurred_at, location_code, etl_run, etl_batch, etl_place) values (%s, %s, %s, %s, %s, %s, 1, 0, 1) "
                "on conflict (event_id) do update set shipment_id = excluded.shipment_id, "
                "event_code = excluded.event_code, occurred_at = excluded.occurred_at",
                [event, self.some("S"), code, exception, self.time(), self.some("H", 2)],
            )

    def trips(self, connection: Connection) -> None:
        """Insert trips, or move them to another day."""
        for log in sorted({self.some("L", 20) for _ in range(3)}):
            trip(connection, log, self.day())

    def correct(self, connection: Connection) -> None:
        """Deliver shipments."""
        connection.execute(
            "update logistics.shipments set delivered_at = created_at + interval '3 days', picked_up_at = created_at "
            "where shipment_id = any(%s)",
            [[self.some("S") for _ in range(3)]],
        )

    def move(self, connection: Connection) -> None:
        """Give shipments another trip, or a trip another name."""
        old, new = self.some("L", 20), self.some("L", 20)
        if self.random.random() < 0.7:
            connection.execute("update logistics.shipments set log_id = %s where log_id = %s", [new, old])
        else:
            connection.execute("delete from logistics.vehicle_logs where log_id = %s", [new])
            connection.execute("update logistics.vehicle_logs set log_id = %s where log_id = %s", [new, old])

    def forget(self, connection: Connection) -> None:
        """Delete shipments and a trip, or sometimes all trips."""
        if self.random.random() < 0.05:
            connection.execute("truncate logistics.vehicle_logs")
        connection.execute(
            "delete from logistics.shipments where shipment_id = any(%s)", [[self.some("S"), self.some("S")]]
        )
        connection.execute("delete from logistics.vehicle_logs where log_id = %s", [self.some("L", 20)])


def play(connection: Connection, seed: int, aggregates: Sequence[Aggregate], steps: int, start: date = START) -> None:
    """Change the facts, with transactions left open and rolled back, and compare after each refresh."""
    company = Company(seed, start)
    with ExitStack() as stack:
        others = [stack.enter_context(another(connection)) for _ in range(2)]
        for other in others:
            other.execute("set lock_timeout = '1ms'")
            other.autocommit = False
        connection.execute("set lock_timeout = '1ms'")
        for _ in range(steps):
            choice = company.random.random()
            worker = company.random.choice([connection, *others])
            try:
                if choice < 0.55:
                    company.work(worker)
                elif choice < 0.75:
                    (worker.rollback if company.random.random() < 0.2 else worker.commit)()
                else:
                    aggregate = company.random.choice(aggregates)
                    company.story.append(f"refresh {aggregate.name}")
                    refresh(connection, aggregate, run=None, full=company.random.random() < 0.05)
                    assert not differences(connection, aggregate), (seed, company.story)
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation):
                worker.rollback()
        for other in others:
            other.commit()
        connection.execute("set lock_timeout = '60s'")  # Only the vacuum of the server may hold a lock now.
        for aggregate in aggregates:
            refresh(connection, aggregate, run=None)
            assert not differences(connection, aggregate), (seed, company.story)
        pending = connection.execute("select aggregate from analytics.freshness where pending_buckets > 0").fetchall()
        assert not {(aggregate.name,) for aggregate in aggregates} & set(pending)
