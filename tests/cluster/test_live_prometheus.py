"""A real Prometheus with this repository's configuration scrapes a live server: labels, queries, alerts by real causes.

The rules are those of deploy/prometheus with short ranges, so that minutes become seconds; what fires after how long is
promtool's to test. One server, used in order: at last its engine is killed, then it is stopped.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from dashboard_queries import queries
from live_engine import engine_of
from live_server import LiveServer, live_servers, wait_for
from manifests import KUBERNETES
from rules import alerts, recorded, rules
from tools import program
from triton_client import Call, arrays_of, ask

from scripts.prometheus_server import PrometheusServer, write_configuration

WINDOW = "5s"
TIMEOUT_S = 90
LONG = {"temperature": 0, "max_tokens": 200, "ignore_eos": True}
META = {
    "__meta_kubernetes_namespace": "models",
    "__meta_kubernetes_pod_name": "flover-0",
    "__meta_kubernetes_pod_container_port_name": "metrics",
    "__meta_kubernetes_pod_phase": "Running",
}
"""What discovery would say of a pod."""


@dataclass(frozen=True)
class Watched:
    """A server, and the Prometheus that scrapes it."""

    server: LiveServer
    prometheus: PrometheusServer


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    program("prometheus")
    with live_servers(tmp_path_factory.mktemp) as start:
        # NOTE: a server whose engine was killed may wait for a stub until its exit timeout.
        settings = {"max_rows": 2, "max_queued_requests": 4, "engine_restarts": 1}
        server = start(settings, instances=2, arguments=("--exit-timeout-secs=2",))
        address = f"127.0.0.1:{server.metrics_port}"
        other = {**META, "__meta_kubernetes_pod_container_port_name": "http"}
        targets = {address: META, f"127.0.0.1:{server.http_port}": other}
        folder = tmp_path_factory.mktemp("prometheus")
        config = write_configuration(folder, targets, scrape_interval="500ms", window=WINDOW, patience="1s")
        with PrometheusServer(config, folder) as prometheus:  # it takes seconds to begin, as the server does
            server.wait_ready()
            yield Watched(server, prometheus)


@contextmanager
def traffic(server: LiveServer, clients: int) -> Iterator[None]:
    """Clients that send one request after another, and rest a moment after each, refused or not."""
    is_over = threading.Event()

    def send() -> None:
        while not is_over.is_set():
            ask(server.grpc_url, [5, 6, 7], LONG)
            is_over.wait(0.1)

    threads = [threading.Thread(target=send, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join(TIMEOUT_S)
        assert not any(thread.is_alive() for thread in threads)


def wait_firing(prometheus: PrometheusServer, name: str) -> None:
    """Until the alert fires, as its rule says, its texts filled in."""
    found: list[dict[str, Any]] = []

    def fires() -> bool:
        named = [alert for alert in prometheus.alerts() if alert["labels"]["alertname"] == name]
        found[:] = [alert for alert in named if alert["state"] == "firing"]
        return bool(found)

    wait_for(fires, TIMEOUT_S)
    for alert in found:
        assert alert["labels"]["severity"] == alerts()[name]["labels"]["severity"]
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert not any("error" in text or "<no value>" in text for text in alert["annotations"].values()), alert


def test_the_servers_metrics_port_alone_is_scraped_with_the_pods_names(watched: Watched) -> None:
    """The configuration's own relabelling, on what discovery says."""
    wait_for(lambda: bool(watched.prometheus.query("flover_model_info == 1")), TIMEOUT_S)
    (target,) = watched.prometheus.query("up")
    labels = {key: value for key, value in target["metric"].items() if not key.startswith("__")}
    address = f"127.0.0.1:{watched.server.metrics_port}"
    assert labels == {"job": "flover", "instance": address, "namespace": "models", "pod": "flover-0"}
    assert target["value"][1] == "1"


def test_under_overload_queries_have_data_and_the_refusals_alert_fires_and_passes(watched: Watched) -> None:
    prometheus = watched.prometheus
    wait_for(lambda: not prometheus.firing(), TIMEOUT_S)  # until the first scrape it knew of no server
    with traffic(watched.server, clients=10):
        wait_firing(prometheus, "FloverRequestsRefused")
        for expression in [*(query for _, query in queries(WINDOW)), *recorded()]:
            wait_number(prometheus, expression)
        waiting = prometheus.query(adapters_query("flover_requests_waiting", namespace="models", pod="flover-0"))
        assert [series["metric"] for series in waiting] == [{"pod": "flover-0"}]
    wait_for(lambda: "FloverRequestsRefused" not in prometheus.firing(), TIMEOUT_S)
    assert prometheus.rule_errors() == {}


def test_deadlines_that_pass_in_the_queue_are_told_from_failures(watched: Watched) -> None:
    """By totals, which the rules take the rates of."""
    server, prometheus = watched.server, watched.prometheus
    expired = on_totals("flover:requests_expired:rate5m")
    failed = on_totals("flover:requests_failed:rate5m").replace("flover:requests_expired:rate5m", f"({expired})")
    before = {query: value_of(prometheus, f"sum({query})") for query in (expired, failed)}
    running = [Call(server.grpc_url, arrays_of([5, 6, 7], {**LONG, "max_tokens": 1900}, stream=True)) for _ in range(2)]
    assert not any(call.next().error for call in running)
    answers = [ask(server.grpc_url, [5, 6, 7], {**LONG, "deadline_ms": 50})]
    assert "before the first token" in answers[0][-1].error
    for call in running:
        call.cancel()
    wait_for(lambda: value_of(prometheus, "flover_requests_running") == 0, TIMEOUT_S)
    answers.append(ask(server.grpc_url, [5, 6, 7], {**LONG, "max_tokens": 1900, "deadline_ms": 700}))  # in decode
    without_token = sum("before the first token" in got[-1].error for got in answers)
    wait_for(lambda: value_of(prometheus, f"sum({expired})") == before[expired] + without_token, TIMEOUT_S)
    wait_for(lambda: value_of(prometheus, f"sum({failed})") == before[failed], TIMEOUT_S)


def on_totals(recording: str) -> str:
    """The expression of a recording rule with each rate's counter in the rate's place."""
    (expression,) = [rule["expr"] for rule in rules("recording.yml") if rule["record"] == recording]
    return re.sub(r"flover:requests_(ended|finished|rejected):rate5m", r"flover_requests_\1_total", str(expression))


def value_of(prometheus: PrometheusServer, query: str) -> float:
    """Of the one series that there is."""
    (series,) = prometheus.query(query)
    return float(series["value"][1])


def wait_number(prometheus: PrometheusServer, expression: str) -> None:
    """Until some series of it has a value; a quotient of nothing by nothing is none."""
    wait_for(lambda: any(series["value"][1] != "NaN" for series in prometheus.query(expression)), TIMEOUT_S)


def adapters_query(metric: str, namespace: str, pod: str) -> str:
    """What prometheus-adapter asks for pods of a namespace: its template filled in as its documentation says."""
    (rule,) = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    values = {
        "<<.Series>>": metric,
        "<<.LabelMatchers>>": f'namespace="{namespace}",pod=~"{pod}"',
        "<<.GroupBy>>": "pod",
    }
    query = str(rule["metricsQuery"])
    for name, value in values.items():
        assert name in query
        query = query.replace(name, value)
    return query


def test_the_adapter_discovers_the_metric(watched: Watched) -> None:
    (rule,) = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    (series,) = watched.prometheus.query(rule["seriesQuery"])
    assert {"namespace", "pod"} <= series["metric"].keys()


@pytest.mark.slow
def test_an_engine_that_dies_is_told_and_one_that_is_gone_for_good_is_an_alarm(watched: Watched) -> None:
    server, prometheus = watched.server, watched.prometheus
    wait_number(prometheus, "flover_model_info == 1")  # a rate needs a sample from before
    running = [Call(server.grpc_url, arrays_of([5, 6, 7], {**LONG, "max_tokens": 1900}, stream=True)) for _ in range(2)]
    assert not any(call.next().error for call in running)
    os.kill(engine_of(server), signal.SIGKILL)
    assert all("the engine" in call.rest()[-1].error for call in running)
    wait_firing(prometheus, "FloverRequestsFailed")
    wait_firing(prometheus, "FloverEngineRestarted")
    wait_number(prometheus, "flover_model_info == 1")
    os.kill(engine_of(server), signal.SIGKILL)
    wait_firing(prometheus, "FloverModelDown")
    assert "FloverServerDown" not in prometheus.firing()
    wait_for(lambda: not answers(f"{server.http_url}/v2/models/flover/ready"), TIMEOUT_S)  # what liveness looks at


def answers(url: str) -> bool:
    """As the kubelet judges an httpGet."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


def test_a_server_that_ended_is_an_alarm(watched: Watched) -> None:
    watched.server.stop()
    wait_firing(watched.prometheus, "FloverServerDown")
