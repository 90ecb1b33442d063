"""deploy/prometheus as data: its alerts, its recording rules, and which metrics a query names."""

from __future__ import annotations

import re
from typing import Any

import yaml
from live_server import ROOT

from flover_backend.metric_families import declared

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULE_FILES = ("recording.yml", "alerts.yml")
Rule = dict[str, Any]


def rules(file: str) -> list[Rule]:
    return [rule for group in yaml.safe_load((PROMETHEUS / file).read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, Rule]:
    return {rule["alert"]: rule for rule in rules("alerts.yml")}


def recorded() -> list[str]:
    return [rule["record"] for rule in rules("recording.yml")]


def metrics_of(query: str) -> set[str]:
    """Names of the metrics in a query. Words in label matchers and groupings, functions and operators are none."""
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", query)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    words = re.findall(r"[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])", text)
    return {word for word in words if word not in ("and", "or", "unless", "bool", "offset")}


def known_metrics() -> set[str]:
    """All that Prometheus can have of a server: families as exported, Triton's own, recordings, `up` and `ALERTS`."""
    exposition = (ROOT / "tests" / "top" / "recorded" / "earlier.txt").read_text()
    of_triton = set(re.findall(r"^(nv_\w+)", exposition, re.MULTILINE))
    return {family.name for family in declared()} | of_triton | set(recorded()) | {"up", "ALERTS"}
