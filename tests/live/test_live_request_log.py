"""A live server's log: a line for each request, readable out of Triton's own line, as text and as JSON."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from typing import Any

import pytest
from live_server import LiveServer, StartServer, wait_for
from triton_client import Call, arrays_of, ask

SECRET = "TELLNOBODY"
MESSAGE = re.compile(r'^I\d{4} \S+ \d+ logs\.py:\d+\] (".*")$')


def messages(log: str) -> list[str]:
    """What the fronts said: Triton escapes a message as JSON does."""
    return [json.loads(found[1]) for found in map(MESSAGE.match, log.splitlines()) if found]


def request_lines(server: LiveServer) -> list[dict[str, str]]:
    found = [re.match(r"flover flover_0_\d v1: request (.*=.*)", message) for message in messages(server.log())]
    return [dict(pair.split("=", 1) for pair in shlex.split(match[1])) for match in found if match]


def request_objects(server: LiveServer) -> list[dict[str, Any]]:
    records = [json.loads(message) for message in messages(server.log()) if message.startswith("{")]
    return [record for record in records if record["message"] == "request"]


@pytest.fixture(scope="module")
def json_server(start_server: StartServer) -> LiveServer:
    server = start_server({"log_format": "json", "max_rows": 2}, instances=2)
    server.wait_ready()
    return server


def send_one_of_each(url: str, prefix: str) -> None:
    """Finished, streaming with n = 2, cancelled, refused; each with an id of its own."""
    ask_with = {"max_tokens": 5, "ignore_eos": True}
    for name, prompt, parameters, stream in [
        ("whole", [5, 6], ask_with, False),
        ("pair", [5, 6], ask_with | {"n": 2, "seed": 1}, True),
        ("bad", SECRET, {"temperature": -1, "stop": SECRET}, False),
    ]:
        Call(url, arrays_of(prompt, parameters, stream=stream), request_id=f"{prefix}-{name}").rest()
    gone = Call(url, arrays_of([5], {"max_tokens": 2000, "ignore_eos": True}, stream=True), request_id=f"{prefix}-gone")
    gone.next()
    gone.cancel()


def test_text(server: LiveServer) -> None:
    send_one_of_each(server.grpc_url, "text")

    def lines() -> dict[str, dict[str, str]]:
        return {line["id"]: line for line in request_lines(server) if line.get("id", "").startswith("text-")}

    wait_for(lambda: len(lines()) == 4)
    told = lines()
    assert {name: (line["reason"], line["code"]) for name, line in told.items()} == {
        "text-whole": ("length", "OK"),
        "text-pair": ("length", "OK"),
        "text-bad": ("invalid_arg", "INVALID_ARG"),
        "text-gone": ("cancelled", "CANCELLED"),
    }
    assert (told["text-pair"]["n"], told["text-pair"]["output_tokens"], told["text-pair"]["prompt_tokens"]) == (
        *("2", "10"),
        "2",
    )
    whole = told["text-whole"]
    assert 0 <= float(whole["queue_ms"]) <= float(whole["first_token_ms"]) <= float(whole["total_ms"])
    assert "seed" in told["text-whole"] and "seed" not in told["text-pair"]
    assert SECRET not in server.log()


def test_json(json_server: LiveServer) -> None:
    send_one_of_each(json_server.grpc_url, 'a"\n\\')
    wait_for(lambda: len(request_objects(json_server)) == 4)
    told = {record["id"]: record for record in request_objects(json_server)}
    reasons = {name.removeprefix('a"?\\-'): record["reason"] for name, record in told.items()}
    assert reasons == {"whole": "length", "pair": "length", "bad": "invalid_arg", "gone": "cancelled"}
    assert SECRET not in json_server.log()


def test_every_accepted_request_has_its_line_beside_a_storm_of_refusals(
    json_server: LiveServer,
) -> None:
    before = len(request_objects(json_server))
    good = [Call(json_server.grpc_url, arrays_of([5], {"max_tokens": 3, "ignore_eos": True})) for _ in range(20)]
    for _ in range(60):
        (refused,) = ask(json_server.grpc_url, b"", None)
        assert refused.error
    for call in good:
        call.rest()

    def records() -> list[dict[str, Any]]:
        return [json.loads(message) for message in messages(json_server.log()) if message.startswith("{")]

    def counted() -> tuple[int, int]:
        requests = request_objects(json_server)[before:]
        sums = [record["count"] for record in records() if record["message"] == "requests refused"]
        refusals = sum(record["code"] == "INVALID_ARG" for record in requests) + sum(sums)
        return sum(record["code"] == "OK" for record in requests), refusals

    wait_for(lambda: counted() == (20, 60))


@pytest.mark.slow
def test_what_ends_without_the_clients_doing(start_server: StartServer) -> None:
    """A deadline that passes in decode; an engine that dies for good, with the request refused afterwards."""
    server = start_server({"engine_restarts": 0})
    server.wait_ready()
    endless = {"max_tokens": 2000, "ignore_eos": True}
    late = Call(server.grpc_url, arrays_of([5], endless | {"deadline_ms": 400}, stream=True), request_id="late")
    late.rest()
    hit = Call(server.grpc_url, arrays_of([5], endless, stream=True), request_id="hit")
    hit.next()
    (engine,) = re.findall(r"started the engine process (\d+)", server.log())
    os.kill(int(engine), signal.SIGKILL)
    assert hit.rest()[-1].error

    def told() -> dict[str, tuple[str, str]]:
        return {line["id"]: (line["reason"], line["code"]) for line in request_lines(server) if "id" in line}

    wait_for(lambda: len(told()) == 2)
    assert told() == {"late": ("deadline", "OK"), "hit": ("internal", "INTERNAL")}
    server.stop()
