"""The dashboard's picture: every query is asked, and values are written as Grafana writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from dashboard_queries import dashboard, panels
from matplotlib.image import imread

from flover_dashboard.picture import DPI, UNIT_IN, Series, draw, formatted


def test_each_panel_is_drawn_from_its_own_queries(tmp_path: Path) -> None:
    asked = []

    def ask(expression: str) -> list[Series]:
        asked.append(expression)
        lines = [Series({"reason": reason}, [0.0, 1.0, 2.0], [1.0, float("nan"), 3.0]) for reason in ("stop", "length")]
        return lines if "by (reason)" in expression else lines[:1]

    full, empty = tmp_path / "full.png", tmp_path / "empty.png"
    draw(full, dashboard(), ask)
    assert sorted(asked) == sorted(
        [target["expr"] for panel in panels() for target in panel["targets"]]
        + [mark["expr"] for mark in dashboard()["annotations"]["list"]]
    )
    draw(empty, dashboard(), lambda expression: [])
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels())
    size = (round(bottom * UNIT_IN[1] * DPI), round(24 * UNIT_IN[0] * DPI))
    assert imread(full).shape[:2] == imread(empty).shape[:2] == size
    assert (imread(full) != imread(empty)).any()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0195, "s", "19.5 ms"),
        (2.5, "s", "2.5 s"),
        (0.00002, "s", "20 µs"),
        (0.25, "percentunit", "25%"),
        (1250, "short", "1.25 K"),
        (3.5, "reqps", "3.5 req/s"),
        (float("nan"), "s", "No data"),
    ],
)
def test_values_have_their_units(value: float, unit: str, text: str) -> None:
    assert formatted(value, unit) == text


def test_every_unit_of_the_dashboard_is_known() -> None:
    for panel in panels():
        formatted(1.0, panel["fieldConfig"]["defaults"]["unit"])
