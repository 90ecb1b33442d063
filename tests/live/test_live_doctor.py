"""`flover doctor --url` on servers that run: their control mode, their models, and that asking changes nothing."""

from __future__ import annotations

import urllib.request

import pytest
from live_server import LiveServer, StartServer, wait_for
from triton_client import ask, ids_of, post

from flover_backend.doctor.live import check_live
from flover_backend.host.checks import Check


def found(server: LiveServer) -> dict[str, Check]:
    return {check.name: check for check in check_live(f"127.0.0.1:{server.http_port}")}


def test_explicit_control_and_a_ready_model(server: LiveServer) -> None:
    with urllib.request.urlopen(f"{server.http_url}/v2/health/ready", timeout=10) as answer:
        assert answer.status == 200
    checks = found(server)
    assert [check.level for check in checks.values()] == ["ok"] * 3
    assert "triton 2.51.0 at http://127.0.0.1:" in checks["server"].found
    assert checks["control mode"].found.startswith("explicit")
    assert "ready; version 1, 2 instances" in checks["model flover"].found
    assert len(ids_of(ask(server.grpc_url, [5], {"max_tokens": 2, "ignore_eos": True}))) == 2


def test_an_unloaded_model_and_another_control_mode(start_server: StartServer) -> None:
    server = start_server(control=("--model-control-mode=none",))
    server.wait_ready()
    mode = found(server)["control mode"]
    assert (mode.level, mode.found.split(":")[0]) == ("warn", "not explicit")
    assert "--model-control-mode=explicit" in mode.advice
    assert found(server)["model flover"].level == "ok"
    server.stop()


@pytest.mark.slow
def test_a_server_without_a_model_of_ours(start_server: StartServer) -> None:
    server = start_server(control=("--model-control-mode=explicit",))
    wait_for(lambda: found(server)["server"].level == "ok", 60)
    checks = found(server)
    assert checks["models"].level == "warn" and "v2/repository/models/NAME/load" in checks["models"].advice
    server.stop()


@pytest.mark.parametrize(
    ("url", "said"), [("127.0.0.1:1", "does not answer"), ("ftp://x", "is no address"), ("x:port", "is no address")]
)
def test_nobody_there(url: str, said: str) -> None:
    (fault,) = check_live(url)
    assert fault.level == "fail" and said in fault.found and "HTTP service" in fault.advice


def test_a_metrics_port_is_no_server(server: LiveServer) -> None:
    (fault,) = check_live(f"http://127.0.0.1:{server.metrics_port}")
    assert fault.level == "fail" and "and no server's metadata" in fault.found


def test_a_grpc_port_is_no_http(server: LiveServer) -> None:
    (fault,) = check_live(server.grpc_url)
    assert fault.level == "fail" and "does not answer" in fault.found


@pytest.mark.slow
def test_a_restricted_api_is_told(start_server: StartServer) -> None:
    restricted = "--http-restricted-api=model-repository:admin-key=secret"
    server = start_server(arguments=(restricted,))
    server.wait_ready()
    checks = found(server)
    assert (checks["control mode"].level, checks["models"].level) == ("warn", "warn")
    assert "restricted" in checks["control mode"].advice
    status, _ = post(f"{server.http_url}/v2/models/flover/generate", {"text_input": "x", "max_tokens": 1})
    assert status == 200
    server.stop()
