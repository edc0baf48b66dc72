"""The dashboards and the questions for BI tools run against the tables of the sample data, as an analyst."""

import json
import re
from typing import Any

import psycopg
import pytest
import yaml
from psycopg import sql

from scripts import update_dashboards
from tests.support.checkout import ROOT
from tests.support.faults import Connection
from tests.support.site import Site

BI = ROOT / "config" / "bi"


def grafana_queries() -> dict[str, str]:
    """Return the queries of the dashboard by the title of their panel, as Grafana sends them for all carriers."""
    dashboard: dict[str, Any] = json.loads((BI / "grafana.json").read_text(encoding="utf-8"))
    [source, carrier] = dashboard["templating"]["list"]
    assert (source["name"], source["query"]) == ("source", "grafana-postgresql-datasource")
    queries = {panel["title"]: panel["targets"][0]["rawSql"] for panel in dashboard["panels"]}
    shown = {title: re.sub(r"\$__timeFilter\((\w+)\)", r"\1 between '2000-01-01' and '2100-01-01'", text)
             for title, text in queries.items()}  # fmt: skip
    return {"carriers": carrier["query"]} | {
        title: text.replace("${carrier:sqlstring}", carrier["query"].partition(" order by")[0])
        for title, text in shown.items()
    }


def questions() -> dict[str, str]:
    """Return the questions by name."""
    parts = re.split(r"^-- name: (\w+)\n", (BI / "questions.sql").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def loaded(tool: str) -> dict[str, Any]:
    """Return the files of a dashboard as values, by their path."""
    folder = BI / tool
    return {str(path.relative_to(folder)): yaml.safe_load(path.read_text("utf-8")) for path in folder.rglob("*.yaml")}


def test_the_files_are_made_from_the_questions() -> None:
    """No file of Superset or Metabase differs from what the questions give, and none is missing or too many."""
    there = {
        str(path.relative_to(BI)): path.read_text(encoding="utf-8")
        for tool in ("superset", "metabase")
        for path in (BI / tool).rglob("*.yaml")
    }
    assert there == update_dashboards.files(), "run: .venv/bin/python -m scripts.update_dashboards"


def test_the_dashboard_of_superset_is_whole() -> None:
    """Each identifier that a file names is that of another file, and each chart has one place."""
    files = loaded("superset")
    assert files["metadata.yaml"]["type"] == "Dashboard"
    by_kind = {
        kind: {each["uuid"]: each for path, each in files.items() if path.startswith(f"{kind}/")}
        for kind in ("databases", "datasets", "charts", "dashboards")
    }
    for dataset in by_kind["datasets"].values():
        assert dataset["database_uuid"] in by_kind["databases"]
    for chart in by_kind["charts"].values():
        dataset = by_kind["datasets"][chart["dataset_uuid"]]
        columns = {column["column_name"] for column in dataset["columns"]}
        named = chart["params"].get("all_columns") or [chart["params"]["x_axis"], *chart["params"]["groupby"]]
        assert set(named) <= columns
        assert set(chart["params"].get("metrics", [])) == {metric["metric_name"] for metric in dataset["metrics"]}
    [dashboard] = by_kind["dashboards"].values()
    position = {key: place for key, place in dashboard["position"].items() if key != "DASHBOARD_VERSION_KEY"}
    assert all(child in position for place in position.values() for child in place.get("children", ()))
    placed = [place["meta"]["uuid"] for place in position.values() if place["type"] == "CHART"]
    assert sorted(placed) == sorted(by_kind["charts"])


def test_the_dashboard_of_metabase_is_whole() -> None:
    """Each card of the dashboard is a file, and all are in the one collection."""
    files = list(loaded("metabase").values())
    by_model: dict[str, list[dict[str, Any]]] = {}
    for each in files:
        assert each["serdes/meta"][-1]["id"] == each["entity_id"]
        assert re.fullmatch(r"[\w-]{21}", each["entity_id"])
        by_model.setdefault(each["serdes/meta"][-1]["model"], []).append(each)
    [collection], [dashboard] = by_model["Collection"], by_model["Dashboard"]
    assert {each["collection_id"] for each in [*by_model["Card"], dashboard]} == {collection["entity_id"]}
    cards = {card["entity_id"] for card in by_model["Card"]}
    assert {place["card_id"] for place in dashboard["dashcards"]} == cards
    places = {(place["row"], place["col"]) for place in dashboard["dashcards"]}
    assert len(places) == len(cards) == len(questions())


def test_the_dashboard_is_one() -> None:
    """Each panel has a place of its own, a number, a title, and the source that the reader chooses."""
    dashboard = json.loads((BI / "grafana.json").read_text(encoding="utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels) == 7
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        [target] = panel["targets"]
        assert panel["datasource"]["uid"] == target["datasource"]["uid"] == "${source}"
        assert ("as time" in target["rawSql"]) == (target["format"] == "time_series")


@pytest.mark.aggregates
def test_each_query_answers_an_analyst(site: Site, connection: Connection) -> None:
    """All queries give rows of the sample data to a member of etl_analyst; they read no other schema."""
    for dataset in ("shipments", "tracking_events"):
        site.run("generate", dataset, "--records", "400", "--seed", "3", "--output", f"{dataset}.json")
        site.run("load", dataset, f"{dataset}.json")
    with psycopg.connect(site.conninfo, autocommit=True) as analyst:
        analyst.execute("set role etl_analyst")
        superset = {f"superset {each['table_name']}": each for each in loaded("superset").values() if "sql" in each}
        metabase = {
            f"metabase {each['name']}": each["dataset_query"]["native"]["query"]
            for each in loaded("metabase").values()
            if "dataset_query" in each
        }
        queries = {name: each["sql"] for name, each in superset.items()} | metabase
        assert len(queries) == 2 * len(questions())
        for name, text in (grafana_queries() | questions() | queries).items():
            cursor = analyst.execute(sql.SQL(text))
            assert cursor.fetchall(), name
            if name in superset:
                columns = [column["column_name"] for column in superset[name]["columns"]]
                assert [column.name for column in cursor.description or ()] == columns
