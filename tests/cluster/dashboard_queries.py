"""deploy/grafana/flover.json as a browser would ask: every query, Grafana's variables filled in."""

from __future__ import annotations

import json
from typing import Any

from live_server import ROOT

DASHBOARD = ROOT / "deploy" / "grafana" / "flover.json"


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries(window: str) -> list[tuple[str, str]]:
    """(title of the panel or annotation, expression)."""
    asked = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    asked += [(mark["name"], mark["expr"]) for mark in dashboard()["annotations"]["list"]]
    return [(title, _filled(expression, window)) for title, expression in asked]


def _filled(expression: str, window: str) -> str:
    for name, value in {"$model": ".*", "$instance": ".*", "$__rate_interval": window}.items():
        expression = expression.replace(name, value)
    return expression
