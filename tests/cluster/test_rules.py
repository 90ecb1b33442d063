"""deploy/prometheus: promtool reads and runs it, alerts fire when they should, the runbook has a section for each."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from live_server import ROOT
from manifests import container
from rules import PROMETHEUS, RULE_FILES, alerts, known_metrics, metrics_of, rules
from tools import program

UNIT_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RUNBOOK = ROOT / "docs" / "operations.md"


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(program("promtool")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_promtool_reads_the_configuration_and_the_rules() -> None:
    answer = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert answer.returncode == 0, answer.stderr
    found = [int(count) for count in re.findall(r"SUCCESS: (\d+) rules found", answer.stdout)]
    assert found == [len(rules(name)) for name in RULE_FILES]


def test_the_configuration_for_kubernetes_is_the_same_but_for_discovery(tmp_path: Path) -> None:
    """Debian's promtool is built without discovery of pods; the rest of the file it reads."""
    config, hosts = (yaml.safe_load((PROMETHEUS / name).read_text()) for name in ("kubernetes.yml", "prometheus.yml"))
    (job,) = config["scrape_configs"]
    (discovery,) = job.pop("kubernetes_sd_configs")
    assert discovery == {
        "role": "pod",
        "selectors": [{"role": "pod", "label": "app.kubernetes.io/name=flover"}],
    }
    assert job["job_name"] == hosts["scrape_configs"][0]["job_name"]
    assert {key: config[key] for key in hosts if key != "scrape_configs"} == {
        key: hosts[key] for key in hosts if key != "scrape_configs"
    }
    job["static_configs"] = [{"targets": ["10.0.0.1:8002"]}]
    config["rule_files"] = [str(PROMETHEUS / name) for name in RULE_FILES]
    (tmp_path / "kubernetes.yml").write_text(yaml.safe_dump(config))
    answer = promtool("check", "config", tmp_path / "kubernetes.yml")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_else_not(file: Path) -> None:
    answer = promtool("test", "rules", file)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.slow
@pytest.mark.parametrize("expression", ["vector(1)", "vector(1) == 0"], ids=["always", "never"])
def test_alerts_that_fire_always_or_never_are_found_out(tmp_path: Path, expression: str) -> None:
    folder = tmp_path / "prometheus"
    shutil.copytree(PROMETHEUS, folder)
    text = yaml.safe_load((folder / "alerts.yml").read_text())
    for group in text["groups"]:
        for rule in group["rules"]:
            rule["expr"] = expression
    (folder / "alerts.yml").write_text(yaml.safe_dump(text))
    for file in UNIT_TESTS:
        answer = promtool("test", "rules", folder / "tests" / file.name)
        assert answer.returncode != 0 and "FAILED" in answer.stdout + answer.stderr


def test_each_alert_is_seen_to_fire() -> None:
    """An expectation that is empty speaks of all alerts; one that is not names those that fire."""
    fired, silent = set(), 0
    for file in UNIT_TESTS:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for check in case["promql_expr_test"]:
                labels = " ".join(sample["labels"] for sample in check["exp_samples"])
                fired |= set(re.findall(r'alertname="(\w+)"', labels))
                silent += not check["exp_samples"]
    assert fired == set(alerts())
    assert silent >= len(fired)


def test_rules_ask_for_metrics_that_there_are() -> None:
    assert metrics_of('rate(a_total{x="y"}[5m]) / ignoring (reason) sum by (le) (b:c > 0) or d unless on (job) e') == {
        "a_total",
        "b:c",
        "d",
        "e",
    }
    asked = {name for file in RULE_FILES for rule in rules(file) for name in metrics_of(rule["expr"])}
    assert asked - known_metrics() == set()
    assert len(asked) > 15


@pytest.mark.parametrize("name", sorted(alerts()))
def test_an_alert_says_what_somebody_who_is_woken_needs(name: str) -> None:
    alert = alerts()[name]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert sorted(alert["annotations"]) == ["description", "runbook_url", "summary"]
    assert alert["annotations"]["runbook_url"].endswith(f"/docs/operations.md#{name.lower()}")
    assert 'job="flover"' in alert["expr"]


def test_a_load_that_the_startup_probe_allows_is_no_alarm() -> None:
    startup = container()["startupProbe"]
    minutes = int(alerts()["FloverServerNotStarting"]["for"].removesuffix("m"))
    assert minutes * 60 > startup["periodSeconds"] * startup["failureThreshold"]


def test_the_runbook_has_a_section_for_each_alert_and_none_for_others() -> None:
    sections = re.findall(r"^## (Flover\w+)$", RUNBOOK.read_text(), re.M)
    assert sections == list(alerts())  # in the same order


@pytest.mark.parametrize("name", sorted(alerts()))
def test_a_section_says_what_it_means_and_what_to_do(name: str) -> None:
    text = RUNBOOK.read_text().split(f"## {name}\n")[1].split("\n## ")[0]
    assert "**Means.**" in text and "**Look.**" in text and "**Do.**" in text
