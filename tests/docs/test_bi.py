"""The dashboard and the questions for BI tools run against the tables of the sample data, with the role of analysts."""

import json
import re
from typing import Any

import psycopg
import pytest
from psycopg import sql

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
        for name, text in (grafana_queries() | questions()).items():
            assert analyst.execute(sql.SQL(text)).fetchall(), name
