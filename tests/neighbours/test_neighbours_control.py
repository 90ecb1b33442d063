"""Triton's other model-control modes, `none` and `poll`, and a server that has its metrics switched off."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from asker import Asker
from calls import PROMPT, ask, call, text
from live_server import LiveServer, StartServer, is_running, wait_for
from repository import add_model, add_neighbours, add_version
from server_control import engines_of, ready_versions, repository_call
from triton_client import Call, arrays_of

# A reload that failed keeps 24.10 from stopping until this timeout, whatever the model.
POLL = ("--model-control-mode=poll", "--repository-poll-secs=1", "--exit-timeout-secs=5")
SWITCHES = ("--allow-metrics=false", "--http-header-forward-pattern=x-.*")
CHANGE_TIMEOUT_S = 60
"""Against a hang: a poll, and a load."""
WHOLE_CONTEXT = {"max_tokens": 1900, "ignore_eos": True}


def test_the_default_mode_and_no_metrics(start_server: StartServer) -> None:
    """Neither keeps ours from loading and answering, nor do headers that Triton makes parameters of."""
    server = start_server(
        {"header_prefix": "x-"},
        control=(),
        arguments=SWITCHES,
        prepare=lambda models: add_neighbours(models, "identity"),
    )
    server.wait_ready(metrics=False)
    with Asker(server) as neighbour, neighbour.answers_during():
        assert len(text(ask(server, "flover"))) > len(PROMPT)
        assert "text_output" in generate(server, {"x-user": "somebody"})
        status, answer = repository_call(server, "unload", "flover")
        assert status == 503
        assert "not allowed" in answer
        assert len(text(ask(server, "flover"))) > len(PROMPT)
    assert " no metrics: " not in server.log(), (
        "24.10 takes metrics with its endpoint closed; a build without any refuses"
    )
    assert "metrics could not be written" not in server.log()


def generate(server: LiveServer, headers: dict[str, str]) -> str:
    body = json.dumps({"text_input": PROMPT, "max_tokens": 2}).encode()
    request = urllib.request.Request(f"{server.http_url}/v2/models/flover/generate", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


@pytest.fixture(scope="module")
def polled(start_server: StartServer) -> LiveServer:
    server = start_server(control=POLL, prepare=lambda models: add_neighbours(models, "identity"))
    server.wait_ready()
    return server


def configure(server: LiveServer, content: dict[str, Any]) -> None:
    """Replace model.json whole: a poll must not meet half of it."""
    target = server.folder / "models" / "flover" / "1" / "model.json"
    partial = server.folder / "model.json.part"
    partial.write_text(json.dumps(content))
    partial.rename(target)


def limit(server: LiveServer) -> str:
    """What is said of n, whose limit is max_rows."""
    return Call(server.grpc_url, arrays_of([5], {"n": 1000})).rest()[-1].error


def num_loads(server: LiveServer) -> int:
    return server.log().count("successfully loaded 'flover'")


@pytest.mark.slow
def test_the_reload_that_pythons_own_cache_brings_about_keeps_engine_and_streams(polled: LiveServer) -> None:
    """Importing model.py writes __pycache__ into the version folder, which a poll takes for a change."""
    running = call(polled, "flover", parameters=WHOLE_CONTEXT, stream=True)
    first = running.next()
    (engine,) = engines_of(polled, "flover")
    wait_for(lambda: num_loads(polled) == 2, CHANGE_TIMEOUT_S)
    assert len(text([first, *running.rest()])) > 1000
    assert engines_of(polled, "flover") == [engine]


@pytest.mark.slow
def test_an_edited_configuration_is_loaded(polled: LiveServer) -> None:
    (engine,) = engines_of(polled, "flover")
    running = call(polled, "flover", parameters=WHOLE_CONTEXT, stream=True)
    first = running.next()
    with Asker(polled) as neighbour, neighbour.answers_during():
        configure(polled, {"max_rows": 3})
        wait_for(lambda: "1 .. 3 " in limit(polled), CHANGE_TIMEOUT_S)
    assert len(text([first, *running.rest()])) > 1000
    wait_for(lambda: not is_running(engine), CHANGE_TIMEOUT_S)


@pytest.mark.slow
def test_a_wrong_configuration_leaves_the_old_one_serving_and_a_right_one_is_loaded_then(polled: LiveServer) -> None:
    (engine,) = engines_of(polled, "flover")
    configure(polled, {"max_rowz": 4})
    wait_for(lambda: "max_rowz" in polled.log(), CHANGE_TIMEOUT_S)
    assert "1 .. 3 " in limit(polled)
    assert engines_of(polled, "flover") == [engine]
    configure(polled, {"max_rows": 4})
    wait_for(lambda: "1 .. 4 " in limit(polled), CHANGE_TIMEOUT_S)
    wait_for(lambda: not is_running(engine), CHANGE_TIMEOUT_S)


@pytest.mark.slow
def test_an_added_version_takes_over_from_the_one_before(polled: LiveServer) -> None:
    """The default policy serves the latest version alone."""
    (engine,) = engines_of(polled, "flover", 1)
    add_version(polled.folder / "models", "flover", 2, {"max_rows": 5})
    wait_for(lambda: ready_versions(polled, "flover") == [2], CHANGE_TIMEOUT_S)
    assert "1 .. 5 " in limit(polled)
    wait_for(lambda: not is_running(engine), CHANGE_TIMEOUT_S)
    assert len(engines_of(polled, "flover")) == 1


@pytest.mark.slow
def test_an_added_model_is_loaded_and_a_removed_one_unloaded(polled: LiveServer) -> None:
    models = polled.folder / "models"
    add_model(models, "another", {1: {"max_rows": 6}})
    wait_for(lambda: ready_versions(polled, "another") == [1], CHANGE_TIMEOUT_S)
    (engine,) = engines_of(polled, "another")
    with Asker(polled) as neighbour, neighbour.answers_during():
        remove(models / "another")
        wait_for(lambda: ready_versions(polled, "another") == [], CHANGE_TIMEOUT_S)
        wait_for(lambda: not is_running(engine), CHANGE_TIMEOUT_S)
    assert "1 .. 5 " in limit(polled)


def remove(folder: Path) -> None:
    """At once."""
    aside = folder.parent.parent / f"{folder.name}.removed"
    folder.rename(aside)
    shutil.rmtree(aside)
