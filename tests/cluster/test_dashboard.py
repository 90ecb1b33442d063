"""deploy/grafana: the file is what the table of panels makes, reads back as Grafana's types, asks for what there is."""

from __future__ import annotations

import json

import pytest
from dashboard_queries import DASHBOARD, dashboard, panels, queries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from rules import known_metrics, metrics_of

from flover_backend.metric_families import FAMILIES
from flover_dashboard.build import WIDTH, text


def test_it_is_made_of_the_table() -> None:
    assert DASHBOARD.read_text() == text(), "run make docs"


def test_it_reads_back_as_grafanas_types() -> None:
    register_default_plugins()
    read = Dashboard.from_json(dashboard())
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == dashboard()
    assert read.schema_version == 41 and read.uid == "flover-backend"


def test_panels_lie_beside_each_other_and_have_numbers_of_their_own() -> None:
    taken = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["w"] > 0 and place["x"] + place["w"] <= WIDTH
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_every_panel_says_what_it_shows_and_takes_the_chosen_source() -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    names = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert sorted(names) == ["datasource", "instance", "model"]
    assert names["datasource"]["type"] == "datasource" and names["datasource"]["query"] == "prometheus"
    for panel in panels():
        assert panel["title"] and panel["description"].endswith(".")
        assert panel["datasource"] == source and panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["datasource"] == source for target in panel["targets"])
        assert all('model=~"$model", instance=~"$instance"' in target["expr"] for target in panel["targets"])


@pytest.mark.parametrize(("title", "expression"), queries("5m"))
def test_it_asks_for_metrics_that_there_are(title: str, expression: str) -> None:
    asked = metrics_of(expression)
    assert asked and asked <= known_metrics(), title


def test_nothing_that_is_counted_is_forgotten() -> None:
    """Aliases and what a picture does not help with are left out by name."""
    shown = {name for _, expression in queries("5m") for name in metrics_of(expression)}
    families = {family.name for family in FAMILIES if family.name.startswith("flover_")}
    left = {name for name in families if not any(one.startswith(name) for one in shown)}
    assert left == {
        "flover_kv_bytes_mapped",
        "flover_reorder_bytes_moved_total",
        "flover_reorder_seconds_total",
        "flover_waiting_tokens",
    }
