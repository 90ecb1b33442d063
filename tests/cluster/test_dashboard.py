"""deploy/grafana: the file is what the table of panels makes, reads back as Grafana's types, asks for what there is."""

from __future__ import annotations

import json

import pytest
from dashboard_queries import DASHBOARD, dashboard, panels, queries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from rules import known_metrics, metrics_of

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


def test_what_an_operator_asks_about_is_shown() -> None:
    shown = {name for _, expression in queries("5m") for name in metrics_of(expression)}
    wanted = [
        "flover_requests_finished_total",
        "flover_requests_rejected_total",
        "flover_decode_tokens_total",
        "flover_time_to_first_token_seconds_bucket",
        "flover_inter_token_latency_seconds_bucket",
        "flover_queue_time_seconds_bucket",
        "flover_requests_waiting",
        "flover_iteration_rows_sum",
        "flover_kv_blocks_used",
        "flover_reorders_total",
        "flover_preemptions_total",
        "flover_engine_restarts_total",
    ]
    assert [name for name in wanted if name not in shown] == []
