"""The Grafana dashboard as Grafana writes it, built of `panels.ROWS` with Grafana's own types. Knows no metrics."""

from __future__ import annotations

import json
from itertools import count

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueGraphMode, LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from .panels import ALERTS, ROWS, Panel

WIDTH = 24
"""Columns of Grafana's grid."""
PANEL_HEIGHT, STAT_HEIGHT = 8, 4
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


def build() -> dashboard.Dashboard:
    """The dashboard of `ROWS`."""
    made = (
        dashboard.Dashboard("flover-backend")
        .uid("flover-backend")
        .description("Language models served by temporal fusion behind Triton Inference Server.")
        .tags(["flover", "triton", "llm"])
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("10s")
        .annotation(
            dashboard.AnnotationQuery().name("Alerts").datasource(SOURCE).expr(ALERTS).enable(True).icon_color("red")
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_choice("model", 'label_values(flover_model_info{job="flover"}, model)'))
        .with_variable(_choice("instance", 'label_values(flover_model_info{job="flover", model=~"$model"}, instance)'))
    )
    numbers = count(1)
    for row in ROWS:
        made.with_row(dashboard.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            made.with_panel(_panel(panel, WIDTH // len(row.panels)).id(next(numbers)))
    return made


def _choice(name: str, query: str) -> dashboard.QueryVariable:
    """Any number of a label's values; all at first."""
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query({"query": query, "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )


def _panel(panel: Panel, span: int) -> stat.Panel | timeseries.Panel:
    made: stat.Panel | timeseries.Panel
    if panel.is_stat:
        made = stat.Panel().graph_mode(BigValueGraphMode.AREA).height(STAT_HEIGHT)
        made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    else:
        legend = common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM)
        made = timeseries.Panel().line_width(1).fill_opacity(10).height(PANEL_HEIGHT).min(0)
        made.legend(legend.display_mode(LegendDisplayMode.LIST).calcs([]))
    made.title(panel.title).description(panel.description).datasource(SOURCE).unit(panel.unit).span(span)
    for number, query in enumerate(panel.queries):
        made.with_target(
            prometheus.Dataquery()
            .datasource(SOURCE)
            .expr(query.expression)
            .legend_format(query.legend)
            .ref_id(chr(ord("A") + number))
            .range()
        )
    return made


def text() -> str:
    """The JSON that Grafana imports."""
    return json.dumps(build().build(), cls=JSONEncoder, indent=2) + "\n"
