"""The quality of the data, recomputed from the facts and the ledger as the comments describe it."""

from collections import Counter, defaultdict
from datetime import date, datetime, timedelta
from unicodedata import combining, normalize

from tests.support.recomputed.exactly import BLANKS, Facts, Row, day_of, groups, is_blank, known, month_of, ratio
from tests.support.recomputed.judged import KINDS, Names, judged

STROKES = str.maketrans("\u0142\u00f8\u0111\u0127\u0167", "lodht")


def bare(name: str) -> str:
    """Return a name without case, blanks, accents and strokes."""
    plain = "".join(letter for letter in normalize("NFD", name) if not combining(letter))
    return "".join(letter for letter in plain.lower() if letter not in BLANKS).translate(STROKES)


def variants(facts: Facts) -> list[Row]:
    """Return the shipments with a name of which another spelling is in the same column."""
    names = Names(facts)
    found = []
    rows = facts["logistics.shipments"]
    spelled: dict[str, dict[str, set[str]]] = {}
    for column in ("carrier", "origin_city", "destination_city", "origin_warehouse"):
        spelled[column] = defaultdict(set)
        for row in rows:
            name = names.mapped(KINDS[column], row[column])
            if name is not None and not is_blank(name):
                spelled[column][bare(name)].add(name)
    for row in rows:
        for column, spellings in spelled.items():
            name = names.mapped(KINDS[column], row[column])
            if name is not None and not is_blank(name) and len(spellings[bare(name)]) > 1:
                found.append(row)
                break
    return found


REFERENCES = {
    "shipments": ("log_id", "logistics.vehicle_logs", "log_id"),
    "tracking_events": ("shipment_id", "logistics.shipments", "shipment_id"),
    "vehicle_logs": ("vehicle_id", "logistics.vehicles", "vehicle_id"),
}


TIMES = {
    "shipments": ("created_at", "picked_up_at", "delivered_at", "updated_at"),
    "tracking_events": ("occurred_at", "recorded_at"),
}


def is_in_future(dataset: str, fact: Row, newest_load: datetime) -> bool:
    """Tell whether a row has a time that its load cannot have known."""
    if dataset == "vehicle_logs":
        return bool(fact["trip_date"] > day_of(newest_load) + timedelta(days=1))
    return any(fact[name] is not None and fact[name] > newest_load for name in TIMES.get(dataset, ()))


def data_quality(facts: Facts) -> list[Row]:
    """Recompute data_quality."""
    runs = {row["run"]: row for row in facts["etl.runs"]}
    judged_rows = {row["shipment_id"]: row for row in judged(facts)}
    with_variants = {row["shipment_id"] for row in variants(facts)}
    newest_load = max(batch["loaded_at"] for batch in facts["etl.batches"])
    batches: dict[tuple[int, int], tuple[date, str]] = {}
    found: dict[tuple[date, str], Row] = defaultdict(lambda: defaultdict(int))
    seen: dict[tuple[date, str], set[str]] = defaultdict(set)
    places: dict[tuple[str, int], tuple[date, str]] = {}
    for batch in facts["etl.batches"]:
        run = runs[batch["run"]]
        if run["undone_at"] is not None or (run["is_atomic"] and run["published_at"] is None):
            continue
        key = (day_of(batch["loaded_at"]), run["dataset"])
        for offset in [batch["offset"], *(batch["part_offsets"] or [])]:
            batches[run["number"], offset] = key
            places[run["run"], offset] = key
        row = found[key]
        seen[key].add(run["run"])
        for name in ("records", "loaded", "rejected", "failed"):
            row[f"count_{name}"] += batch[f"count_{name}"] or 0
    for failure in facts["etl.failures"]:
        if failure["state"] == "pending" and (failure["run"], failure["batch"]) in places:
            found[places[failure["run"], failure["batch"]]]["count_pending"] += failure["count_records"]
    for dataset in ("shipments", "tracking_events", "vehicle_logs", "vehicles"):
        reference = REFERENCES.get(dataset)
        there = {row[reference[2]] for row in facts[reference[1]]} if reference else set()
        for fact in facts[f"logistics.{dataset}"]:
            place = batches.get((fact["etl_run"], fact["etl_batch"]))
            if place is None:
                continue
            row = found[place]
            row["count_kept"] += 1
            row["count_future_times"] += is_in_future(dataset, fact, newest_load)
            if reference and fact[reference[0]] is not None:
                row["count_references"] += 1
                row["count_orphans"] += fact[reference[0]] not in there
            if dataset == "shipments":
                one = judged_rows[fact["shipment_id"]]
                timed = fact["delivered_at"] is not None
                picked = fact["picked_up_at"]
                row["count_delivered_before_picked_up"] += (
                    timed and picked is not None and fact["delivered_at"] < picked
                )
                row["count_unknown_status"] += one["has_unknown_status"]
                row["count_closed_without_delivery_time"] += one["meaning"] == "delivered" and not timed
                row["count_contradicting_status"] += one["meaning"] in ("returned", "lost", "cancelled") and timed
                row["count_name_variants"] += fact["shipment_id"] in with_variants
    counts = (
        "records",
        "loaded",
        "rejected",
        "failed",
        "pending",
        "kept",
        "references",
        "orphans",
        "delivered_before_picked_up",
        "unknown_status",
        "closed_without_delivery_time",
        "contradicting_status",
        "name_variants",
        "future_times",
    )
    return [
        {"day": day, "dataset": dataset, "count_runs": len(seen[day, dataset])}
        | {f"count_{name}": row[f"count_{name}"] for name in counts}
        | {
            "rejected_share": ratio(row["count_rejected"], row["count_records"], 6),
            "orphan_share": ratio(row["count_orphans"], row["count_references"], 6),
        }
        for (day, dataset), row in found.items()
    ]


def shipment_batches(facts: Facts) -> list[Row]:
    """Recompute shipment_batches."""
    ends = {row["shipment_id"]: row for row in judged(facts)}
    result = []
    for (month, run, batch), group in groups(
        facts["logistics.shipments"],
        lambda fact: (month_of(fact["created_at"]), fact["etl_run"] or 0, fact["etl_batch"] or 0),
    ).items():
        meanings = [(ends[fact["shipment_id"]]["meaning"], fact["delivered_at"] is not None) for fact in group]
        timed = [fact for fact in group if fact["delivered_at"] is not None and fact["picked_up_at"] is not None]
        times = (fact[name] for fact in group for name in TIMES["shipments"] if fact[name] is not None)
        result.append(
            {
                "month": month,
                "run_number": run,
                "batch": batch,
                "count_shipments": len(group),
                "count_references": known(group, "log_id"),
                "count_delivered_before_picked_up": sum(fact["delivered_at"] < fact["picked_up_at"] for fact in timed),
                "count_unknown_status": sum(ends[fact["shipment_id"]]["has_unknown_status"] for fact in group),
                "count_closed_without_delivery_time": meanings.count(("delivered", False)),
                "count_contradicting_status": sum(
                    meanings.count((meaning, True)) for meaning in ("returned", "lost", "cancelled")
                ),
                "latest_at": max(times),
            }
        )
    return result


def shipment_names(facts: Facts) -> list[Row]:
    """Recompute shipment_names."""
    return [
        {
            "month": month,
            "column_name": column,
            "is_missing": spelling is None,
            "spelling": spelling or "",
            "count_shipments": count,
        }
        for column in ("carrier", "origin_city", "destination_city", "origin_warehouse")
        for (month, spelling), count in Counter(
            (month_of(fact["created_at"]), fact[column]) for fact in facts["logistics.shipments"]
        ).items()
    ]


def shipment_orphans(facts: Facts) -> list[Row]:
    """Recompute shipment_orphans."""
    trips = {row["log_id"] for row in facts["logistics.vehicle_logs"]}
    orphans = [row for row in facts["logistics.shipments"] if row["log_id"] is not None and row["log_id"] not in trips]
    return [
        {"month": month, "run_number": run, "batch": batch, "count_orphans": len(group)}
        for (month, run, batch), group in groups(
            orphans, lambda fact: (month_of(fact["created_at"]), fact["etl_run"] or 0, fact["etl_batch"] or 0)
        ).items()
    ]
