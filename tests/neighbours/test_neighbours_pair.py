"""Two models of ours in one server, a LLaMA and a GPT-J: engines, metrics, unloading and failing are each one's own."""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Iterator

import pytest
from live_metrics import Scrape, ours, series
from live_server import LiveServer, is_running, wait_for
from repository import add_model
from server_control import engines_of, load, settled, unload
from triton_client import Answer, Call, arrays_of, ids_of

IDS = [5, 6, 7]
LONG = {"max_tokens": 400, "temperature": 0, "ignore_eos": True}
MODELS = ("flover", "second")


@pytest.fixture(scope="module")
def pair(server: LiveServer) -> Iterator[LiveServer]:
    add_model(server.folder / "models", "second", {1: {"model": "gptj-demo", "max_rows": 2}}, count=2)
    load(server, "second")
    yield server
    unload(server, "second")


def stream(server: LiveServer, model: str, max_tokens: int) -> Call:
    parameters = {"temperature": 0, "max_tokens": max_tokens, "ignore_eos": True}
    return Call(server.grpc_url, arrays_of(IDS, parameters, stream=True), model)


def whole(answers: list[Answer]) -> list[int]:
    assert [answer.error for answer in answers] == [""] * len(answers)
    return ids_of(answers)


def test_each_has_its_engine_and_they_answer_side_by_side(pair: LiveServer) -> None:
    engines = [engines_of(pair, model) for model in MODELS]
    assert [len(found) for found in engines] == [1, 1]
    assert engines[0] != engines[1]
    alone = {model: whole(stream(pair, model, 100).rest()) for model in MODELS}
    assert alone["flover"] != alone["second"]
    calls = [(model, stream(pair, model, 100)) for _ in range(4) for model in MODELS]
    for model, call in calls:
        assert whole(call.rest()) == alone[model]


@pytest.mark.slow
def test_metrics_have_each_ones_label(pair: LiveServer) -> None:
    before = settled(pair)
    whole(stream(pair, "second", 40).rest())
    wait_for(lambda: increase(before, ours(pair.metrics()), "second") == 40)
    after = settled(pair)
    assert increase(before, after, "second") == 40
    assert increase(before, after, "flover") == 0
    families = [{name.split("{")[0] for name in after if f'model="{model}"' in name} for model in MODELS]
    assert families[0] == families[1]


def increase(before: Scrape, after: Scrape, model: str) -> float:
    name = series("vllm:generation_tokens_total", model)
    return after[name] - before[name]


def test_the_death_of_one_engine_leaves_the_other_and_another_takes_its_place(pair: LiveServer) -> None:
    others = stream(pair, "flover", 400)
    first = others.next()
    (engine,) = engines_of(pair, "second")
    own = stream(pair, "second", 2000)
    own.next()
    os.kill(engine, signal.SIGKILL)
    assert "the engine has failed" in own.rest()[-1].error
    assert len(whole([first, *others.rest()])) == 400
    with urllib.request.urlopen(f"{pair.http_url}/v2/models/second/ready", timeout=10) as answer:
        assert answer.status == 200, "while restarts are left the model stays"
    wait_for(lambda: answers(pair, "second"))
    assert engines_of(pair, "second") != [engine]


def answers(pair: LiveServer, model: str) -> bool:
    """False while the model's engine is being started again."""
    *tokens, last = stream(pair, model, 5).rest()
    if last.error:
        assert last.error.endswith("[UNAVAILABLE]")
        return False
    return len(whole([*tokens, last])) == 5


@pytest.mark.slow
def test_unloading_one_leaves_the_others_streams_alone(pair: LiveServer) -> None:
    (engine,) = engines_of(pair, "second")
    others = stream(pair, "flover", 400)
    first = others.next()
    unload(pair, "second")
    assert len(whole([first, *others.rest()])) == 400
    wait_for(lambda: not is_running(engine))
    load(pair, "second")
    assert len(whole(stream(pair, "second", 5).rest())) == 5
