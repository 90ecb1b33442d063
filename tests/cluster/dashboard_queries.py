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
    """(title of the panel, expression)."""
    values = {"$model": ".*", "$instance": ".*", "$__rate_interval": window}
    found = []
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in values.items():
                expression = expression.replace(name, value)
            found.append((panel["title"], expression))
    return found
