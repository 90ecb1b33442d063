"""An engine that dies or hangs under a real server: who gets INTERNAL, who runs again, and what comes after."""

from __future__ import annotations

import os
import signal

import pytest
from live_engine import engine_of, wait_for_engine
from live_metrics import series, wait_running
from live_server import LiveServer, StartServer, is_running, wait_for
from triton_client import Call, arrays_of, ask, ids_of

ENDLESS = {"max_tokens": 2000, "ignore_eos": True, "temperature": 0}
SHORT = {"max_tokens": 12, "ignore_eos": True, "temperature": 0}
PROMPTS = [[5 + number, 6, 7] for number in range(4)]


@pytest.fixture(scope="module")
def mortal(start_server: StartServer) -> LiveServer:
    """Two fronts, two rows: of many requests two run and the others wait. Its engines are killed all the time."""
    running = start_server({"max_rows": 2, "engine_restarts": 100}, instances=2)
    running.wait_ready()
    return running


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_requests_without_a_token_run_again_and_the_others_end(mortal: LiveServer, number: signal.Signals) -> None:
    lone = [ids_of(ask(mortal.grpc_url, prompt, SHORT)) for prompt in PROMPTS]
    restarts = mortal.metrics()[series("flover_engine_restarts_total")]
    running = [Call(mortal.grpc_url, arrays_of([9, 9], ENDLESS, stream=True)) for _ in range(2)]
    for call in running:
        assert not call.next().error
    waiting = [Call(mortal.grpc_url, arrays_of(prompt, SHORT, stream=bool(n % 2))) for n, prompt in enumerate(PROMPTS)]
    wait_running(mortal, 2, waiting=len(PROMPTS))
    engine = engine_of(mortal)
    os.kill(engine, number)
    for call in running:
        last = call.rest()[-1]
        assert last.error.endswith("[INTERNAL]")
        assert "the engine has failed" in last.error
    assert [ids_of(call.rest()) for call in waiting] == lone
    assert not is_running(engine)
    assert engine_of(mortal) != engine
    wait_for(lambda: mortal.metrics()[series("flover_engine_restarts_total")] == restarts + 1)


def test_new_requests_are_told_to_come_again(mortal: LiveServer) -> None:
    """What comes before the front has seen its engine's end is accepted, and runs on the next one."""
    os.kill(engine_of(mortal), signal.SIGKILL)
    calls = []
    while not calls or calls[-1].is_silent(0.02):
        calls.append(Call(mortal.grpc_url, arrays_of([5, 6], SHORT)))
    *accepted, (refused,) = [call.rest() for call in calls]
    assert refused.error.endswith("[UNAVAILABLE]")
    assert "the engine is being started again" in refused.error
    assert "of 100 restarts within 600 s are left" in refused.error
    assert all(len(ids_of(answers)) == 12 for answers in accepted)
    wait_for_engine(mortal)
