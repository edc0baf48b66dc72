#!/usr/bin/env python3
"""Write the dashboards of Superset and Metabase from the questions of `config/bi/questions.sql`.

Both tools import a folder of YAML files: `config/bi/superset` and `config/bi/metabase`. Their identifiers follow from
the names, so that an import of a newer version replaces the older one. `tests/docs/test_bi.py` compares the folders.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import yaml

BI = Path(__file__).resolve().parents[1] / "config" / "bi"
TITLE = "Logistics aggregates"
DATABASE = "logistics"
EMAIL = "internal@metabase.com"  # a user that each Metabase has
_SINCE = "2026-01-01T00:00:00+00:00"


@dataclass(frozen=True)
class Chart:
    """How a question is drawn: `x` is None for a table; `columns` has the types of all columns in their order."""

    title: str
    kind: str
    columns: dict[str, str]
    x: str | None = None
    series: str | None = None
    values: tuple[str, ...] = ()


CHARTS = {
    "shipments_by_day": Chart(
        "Shipments by day",
        "line",
        {"day": "DATE", "shipments": "NUMERIC", "delivered": "NUMERIC", "open": "NUMERIC"},
        "day",
        None,
        ("shipments", "delivered", "open"),
    ),
    "on_time_by_promised_month": Chart(
        "Promises kept by month",
        "line",
        {"month": "DATE", "carrier": "TEXT", "on_time_share": "NUMERIC", "due": "NUMERIC"},
        "month",
        "carrier",
        ("on_time_share",),
    ),
    "transit_by_lane": Chart(
        "Transit of the largest lanes",
        "table",
        {"origin_city": "TEXT", "destination_city": "TEXT", "shipments": "NUMERIC", "avg_transit_hours": "NUMERIC"},
    ),
    "exceptions_by_code": Chart(
        "Exceptions by day",
        "bar",
        {"day": "DATE", "exception_code": "TEXT", "exceptions": "NUMERIC"},
        "day",
        "exception_code",
        ("exceptions",),
    ),
    "open_and_late": Chart(
        "Open and late",
        "bar",
        {"carrier": "TEXT", "age_bucket": "TEXT", "is_overdue": "BOOLEAN", "shipments": "NUMERIC"},
        "age_bucket",
        "is_overdue",
        ("shipments",),
    ),
    "cost_per_kg_by_month": Chart(
        "Cost per kg by month",
        "line",
        {"month": "DATE", "carrier": "TEXT", "cost_per_kg": "NUMERIC"},
        "month",
        "carrier",
        ("cost_per_kg",),
    ),
    "value_at_risk": Chart(
        "Value at risk",
        "table",
        {
            "currency": "TEXT",
            "open": "NUMERIC",
            "value_open": "NUMERIC",
            "value_late": "NUMERIC",
            "value_in_exception": "NUMERIC",
        },
    ),
    "freshness": Chart(
        "Freshness",
        "table",
        {
            "aggregate": "TEXT",
            "facts_through": "TIMESTAMPTZ",
            "newest_event_at": "TIMESTAMPTZ",
            "pending_buckets": "BIGINT",
        },
    ),
}


def questions() -> dict[str, tuple[str, str]]:
    """Return the comment and the query of each question by name."""
    parts = re.split(r"^-- name: (\w+)\n", (BI / "questions.sql").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        comment, _, query = text.strip().partition("\n")
        found[name] = (comment.removeprefix("-- "), query.rstrip(";"))
    return found


def _uuid(kind: str, name: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"etl.bi/{kind}/{name}"))


def _superset() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "metadata.yaml", {"version": "1.0.0", "type": "Dashboard", "timestamp": _SINCE}
    yield (
        f"databases/{DATABASE}.yaml",
        {
            "database_name": DATABASE,
            "sqlalchemy_uri": "postgresql+psycopg2://dashboard@db.example.com:5432/logistics",
            "expose_in_sqllab": True,
            "allow_dml": False,
            "uuid": _uuid("database", DATABASE),
            "version": "1.0.0",
        },
    )
    for name, (comment, query) in questions().items():
        yield f"datasets/{DATABASE}/{name}.yaml", _superset_dataset(name, comment, query)
        yield f"charts/{name}.yaml", _superset_chart(name, comment)
    yield (
        "dashboards/logistics.yaml",
        {
            "dashboard_title": TITLE,
            "slug": "logistics-aggregates",
            "uuid": _uuid("dashboard", "logistics"),
            "position": dict(_superset_positions()),
            "metadata": {},
            "version": "1.0.0",
        },
    )


def _fold(value: str) -> str:
    """Return how rows of a group become one value: a share is of one row, and never adds up."""
    return "max" if value.endswith(("_share", "_per_kg")) else "sum"


def _metric(value: str) -> str:
    return f"{_fold(value)}_{value}"


def _superset_dataset(name: str, comment: str, query: str) -> dict[str, Any]:
    chart = CHARTS[name]
    columns = [
        {
            "column_name": column,
            "type": kind,
            "is_dttm": kind in ("DATE", "TIMESTAMPTZ"),
            "groupby": True,
            "filterable": True,
        }
        for column, kind in chart.columns.items()
    ]
    metrics = [{"metric_name": _metric(value), "expression": f"{_fold(value)}({value})"} for value in chart.values]
    return {
        "table_name": name,
        "description": comment,
        "schema": "analytics",
        "sql": query,
        "main_dttm_col": chart.x if chart.x in ("day", "month") else None,
        "uuid": _uuid("dataset", name),
        "metrics": metrics,
        "columns": columns,
        "version": "1.0.0",
        "database_uuid": _uuid("database", DATABASE),
    }


def _superset_chart(name: str, comment: str) -> dict[str, Any]:
    chart = CHARTS[name]
    params: dict[str, Any] = {"query_mode": "raw", "all_columns": list(chart.columns), "row_limit": 1000}
    if chart.x is not None:
        params = {
            "x_axis": chart.x,
            "metrics": [_metric(value) for value in chart.values],
            "groupby": [chart.series] if chart.series else [],
            "time_grain_sqla": {"day": "P1D", "month": "P1M"}.get(chart.x),
            "stack": "Stack" if chart.kind == "bar" else None,
            "row_limit": 10_000,
            "show_legend": True,
            "y_axis_title": ", ".join(chart.values),
            "x_axis_title": chart.x,
        }
    kind = {"line": "echarts_timeseries_line", "bar": "echarts_timeseries_bar", "table": "table"}[chart.kind]
    return {
        "slice_name": chart.title,
        "description": comment,
        "viz_type": kind,
        "params": params | {"viz_type": kind},
        "uuid": _uuid("chart", name),
        "version": "1.0.0",
        "dataset_uuid": _uuid("dataset", name),
    }


def _superset_positions() -> Iterator[tuple[str, Any]]:
    names = list(CHARTS)
    rows = [names[place : place + 2] for place in range(0, len(names), 2)]
    yield "DASHBOARD_VERSION_KEY", "v2"
    yield "ROOT_ID", {"id": "ROOT_ID", "type": "ROOT", "children": ["GRID_ID"]}
    yield "HEADER_ID", {"id": "HEADER_ID", "type": "HEADER", "meta": {"text": TITLE}}
    rows_of = [f"ROW-{place}" for place in range(len(rows))]
    yield "GRID_ID", {"id": "GRID_ID", "type": "GRID", "parents": ["ROOT_ID"], "children": rows_of}
    for row, of_row in zip(rows_of, rows, strict=True):
        parents = ["ROOT_ID", "GRID_ID"]
        children = [f"CHART-{name}" for name in of_row]
        background = {"background": "BACKGROUND_TRANSPARENT"}
        yield row, {"id": row, "type": "ROW", "parents": parents, "children": children, "meta": background}
        for name, key in zip(of_row, children, strict=True):
            meta = {"chartId": 1 + list(CHARTS).index(name), "width": 6, "height": 50, "uuid": _uuid("chart", name)}
            meta["sliceName"] = CHARTS[name].title
            yield key, {"id": key, "type": "CHART", "parents": [*parents, row], "children": [], "meta": meta}


def _nano(kind: str, name: str) -> str:
    """Return the 21 letters by which Metabase knows an entity."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return "".join(letters[byte % len(letters)] for byte in sha256(f"etl.bi/{kind}/{name}".encode()).digest()[:21])


def _meta(model: str, name: str, label: str) -> list[dict[str, str]]:
    return [{"id": _nano(model, name), "label": label, "model": model}]


def _metabase() -> Iterator[tuple[str, dict[str, Any]]]:
    collection = _nano("Collection", DATABASE)
    folder = f"collections/{collection}_{DATABASE}"
    named = {"name": TITLE, "entity_id": collection, "slug": "logistics_aggregates", "archived": False}
    named |= {"parent_id": None, "namespace": None, "created_at": _SINCE}
    yield f"{folder}/{collection}_{DATABASE}.yaml", named | {"serdes/meta": _meta("Collection", DATABASE, DATABASE)}
    for name, (comment, query) in questions().items():
        yield f"{folder}/cards/{_nano('Card', name)}_{name}.yaml", _metabase_card(name, comment, query, collection)
    dashboard = _nano("Dashboard", DATABASE)
    yield (
        f"{folder}/dashboards/{dashboard}_{DATABASE}.yaml",
        {
            "name": TITLE,
            "entity_id": dashboard,
            "creator_id": EMAIL,
            "collection_id": collection,
            "created_at": _SINCE,
            "parameters": [],
            "tabs": [],
            "dashcards": [_metabase_place(place, name) for place, name in enumerate(CHARTS)],
            "serdes/meta": _meta("Dashboard", DATABASE, DATABASE),
        },
    )


def _metabase_card(name: str, comment: str, query: str, collection: str) -> dict[str, Any]:
    chart = CHARTS[name]
    settings: dict[str, Any] = {}
    if chart.x is not None:
        settings = {
            "graph.dimensions": [chart.x, *([chart.series] if chart.series else [])],
            "graph.metrics": list(chart.values),
            "stackable.stack_type": "stacked" if chart.kind == "bar" else None,
        }
    return {
        "name": chart.title,
        "description": comment,
        "entity_id": _nano("Card", name),
        "creator_id": EMAIL,
        "collection_id": collection,
        "created_at": _SINCE,
        "database_id": DATABASE,
        "query_type": "native",
        "type": "question",
        "display": chart.kind,
        "dataset_query": {"database": DATABASE, "type": "native", "native": {"query": query, "template-tags": {}}},
        "visualization_settings": settings,
        "parameters": [],
        "parameter_mappings": [],
        "serdes/meta": _meta("Card", name, name),
    }


def _metabase_place(place: int, name: str) -> dict[str, Any]:
    return {
        "entity_id": _nano("DashboardCard", name),
        "card_id": _nano("Card", name),
        "created_at": _SINCE,
        "row": place // 2 * 8,
        "col": place % 2 * 12,
        "size_x": 12,
        "size_y": 8,
        "parameter_mappings": [],
        "series": [],
        "visualization_settings": {},
        "serdes/meta": [
            *_meta("Dashboard", DATABASE, DATABASE),
            {"id": _nano("DashboardCard", name), "model": "DashboardCard"},
        ],
    }


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - asked of each value
        """Write equal values twice."""
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def files() -> dict[str, str]:
    """Return the text of each file by its path in `config/bi`."""
    made = [("superset", path, value) for path, value in _superset()]
    made += [("metabase", path, value) for path, value in _metabase()]
    return {
        f"{tool}/{path}": yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
        for tool, path, value in made
    }


def main() -> None:
    """Write both folders anew."""
    for tool in ("superset", "metabase"):
        shutil.rmtree(BI / tool, ignore_errors=True)
    for path, text in files().items():
        (BI / path).parent.mkdir(parents=True, exist_ok=True)
        (BI / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
