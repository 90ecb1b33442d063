"""An engine that dies or hangs under a real server: who gets INTERNAL, who runs again, and what comes after."""

from __future__ import annotations

import os
import signal

import pytest
from live_engine import engine_of, engines_of, fronts_of, is_ready, wait_for_engine
from live_metrics import series, wait_running
from live_server import LiveServer, StartServer, is_running, runtime_files, shared_memory_of, wait_for
from triton_client import Call, arrays_of, ask, ids_of, post

from flover_backend.metric_families import OUTCOMES
from flover_backend.metric_families import series as series_of
from flover_backend.observer import EngineObserver, find_engines

ENDLESS = {"max_tokens": 2000, "ignore_eos": True, "temperature": 0}
SHORT = {"max_tokens": 12, "ignore_eos": True, "temperature": 0}
THOUSAND = SHORT | {"max_tokens": 1000}
PROMPTS = [[5 + number, 6, 7] for number in range(4)]


@pytest.fixture(scope="module")
def mortal(start_server: StartServer) -> LiveServer:
    """Two fronts, two rows: of many requests two run and the others wait. Its engines are killed all the time."""
    running = start_server({"max_rows": 2, "engine_restarts": 100}, instances=2)
    running.wait_ready()
    return running


def ends_of(server: LiveServer) -> list[float]:
    """Requests that were accepted, and of them finished, cancelled, failed."""
    scrape = server.metrics()
    ended = [scrape[series("flover_requests_ended_total", outcome=outcome)] for outcome in OUTCOMES]
    return [scrape[series("flover_requests_accepted_total")], *ended]


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)],
    ids=["killed", "stopped"],
)
def test_requests_without_a_token_run_again_and_the_others_end(mortal: LiveServer, number: signal.Signals) -> None:
    before = ends_of(mortal)
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
    wait_for(lambda: [after - was for after, was in zip(ends_of(mortal), before, strict=True)] == [10, 8, 0, 2])


def test_new_requests_are_told_to_come_again(mortal: LiveServer) -> None:
    """What comes before the front has seen its engine's end is accepted, and runs on the next one."""
    os.kill(engine_of(mortal), signal.SIGKILL)
    calls = []
    while not calls or calls[-1].is_silent(0.02):
        calls.append(Call(mortal.grpc_url, arrays_of([5, 6], SHORT)))
    ends = [call.rest() for call in calls]
    refused = [answers[-1].error for answers in ends if answers[-1].error]
    assert refused
    for error in refused:
        assert error.endswith("[UNAVAILABLE]")
        assert "the engine is being started again" in error
        assert " of 100 within 600 s; try again" in error
    assert all(len(ids_of(answers)) == 12 for answers in ends if not answers[-1].error)
    wait_for_engine(mortal)


@pytest.mark.slow
def test_two_deaths_in_quick_succession(mortal: LiveServer) -> None:
    """The second one while the next engine loads: what waited is still there."""
    lone = ids_of(ask(mortal.grpc_url, PROMPTS[0], SHORT))
    restarts = mortal.metrics()[series("flover_engine_restarts_total")]
    running = [Call(mortal.grpc_url, arrays_of([9, 9], ENDLESS, stream=True)) for _ in range(2)]
    for call in running:
        call.next()
    waiting = [Call(mortal.grpc_url, arrays_of(PROMPTS[0], SHORT)) for _ in range(4)]
    wait_running(mortal, 2, waiting=4)
    first = engine_of(mortal)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: any(pid != first for pid in engines_of(mortal)), timeout_s=30)
    os.kill(engine_of(mortal), signal.SIGKILL)
    assert all(call.rest()[-1].error.endswith("[INTERNAL]") for call in running)
    assert [ids_of(call.rest()) for call in waiting] == [lone] * 4
    wait_for(lambda: mortal.metrics()[series("flover_engine_restarts_total")] > restarts)
    wait_for_engine(mortal)


@pytest.mark.slow
def test_a_deadline_passes_while_there_is_no_engine(mortal: LiveServer) -> None:
    running = [Call(mortal.grpc_url, arrays_of([9, 9], ENDLESS, stream=True)) for _ in range(2)]
    for call in running:
        call.next()
    waiting = [Call(mortal.grpc_url, arrays_of([5], SHORT | {"deadline_ms": ms})) for ms in (300, 60_000)]
    os.kill(engine_of(mortal), signal.SIGSTOP)  # found out after seconds
    (late,) = waiting[0].rest()
    assert late.error.endswith("[UNAVAILABLE]")
    assert "deadline_ms" in late.error
    assert len(ids_of(waiting[1].rest())) == 12
    assert all(call.rest()[-1].error.endswith("[INTERNAL]") for call in running)
    wait_for_engine(mortal)


def test_a_front_s_death_cancels_its_requests_and_the_other_front_goes_on(mortal: LiveServer) -> None:
    """The last test of this server: 24.10 starts no front again, tells its clients nothing, and ends late."""
    calls = [Call(mortal.grpc_url, arrays_of([9, 9], ENDLESS, stream=True)) for _ in range(2)]
    wants = [ENDLESS["max_tokens"] - len(ids_of([call.next()])) for call in calls]  # both have their rows
    wants += [300] * 4
    calls += [Call(mortal.grpc_url, arrays_of([9, 9], SHORT | {"max_tokens": 300}, stream=True)) for _ in range(4)]
    wait_running(mortal, 2, waiting=4)
    engine, children = engine_of(mortal), mortal.descendants()
    regions = [path for pid in fronts_of(mortal) for path in shared_memory_of(pid)]
    assert len(regions) == 2
    os.kill(fronts_of(mortal)[0], signal.SIGKILL)
    (found,) = find_engines(mortal.process.pid)
    with EngineObserver.connect(found) as observer:
        wait_for(lambda: observer.metrics().gauges["flover_requests_running"] == 0, timeout_s=60)
        metrics = observer.metrics()
    assert metrics.gauges["flover_requests_waiting"] == metrics.gauges["flover_kv_blocks_used"] == 0
    cancelled = metrics.counters[series_of("flover_requests_finished_total", reason="cancelled")]
    assert 1 <= cancelled < len(calls)
    wait_for(lambda: sum(map(Call.has_finished, calls, wants)) == len(calls) - cancelled, timeout_s=60)
    assert engine_of(mortal) == engine
    assert is_ready(mortal), "24.10 says nothing of it: docs/operations.md does"
    mortal.process.kill()
    mortal.process.wait()
    wait_for(lambda: not [pid for pid in (*children, engine) if is_running(pid)])
    assert not runtime_files(mortal)
    assert not [path for path in regions if path.exists()], "that of the front that died before its server too"


@pytest.mark.slow
def test_used_up_restarts_take_the_model_out_of_service_until_it_is_loaded_again(start_server: StartServer) -> None:
    server = start_server({"max_rows": 2, "engine_restarts": 1}, instances=2)
    server.wait_ready()
    os.kill(engine_of(server), signal.SIGKILL)
    wait_for_engine(server)
    running = [Call(server.grpc_url, arrays_of([9, 9], ENDLESS, stream=True)) for _ in range(2)]
    for call in running:
        call.next()
    waiting = [Call(server.grpc_url, arrays_of([5], SHORT)) for _ in range(4)]
    os.kill(engine_of(server), signal.SIGKILL)
    for call in (*running, *waiting):
        last = call.rest()[-1]
        assert last.error.endswith("[INTERNAL]")
        assert "it was started again 1 times within 600 s" in last.error
    wait_for(lambda: not is_ready(server))
    wait_for(lambda: not server.descendants(), timeout_s=30)
    assert not runtime_files(server)
    status, text = post(f"{server.http_url}/v2/repository/models/flover/load", {})
    assert status == 200, text
    assert is_ready(server)
    assert len(ids_of(ask(server.grpc_url, [5], SHORT))) == 12
    server.stop()


@pytest.mark.slow
def test_a_server_that_does_not_unload_loses_its_fronts(start_server: StartServer) -> None:
    """24.10 goes on calling the model ready: docs/operations.md says so, and what later releases do."""
    server = start_server({"engine_restarts": 0}, instances=2, control=())
    server.wait_ready()
    call = Call(server.grpc_url, arrays_of([9, 9], ENDLESS, stream=True))
    call.next()
    children = server.descendants()
    os.kill(engine_of(server), signal.SIGKILL)
    assert call.rest()[-1].error.endswith("[INTERNAL]")
    wait_for(lambda: not [pid for pid in children if is_running(pid)])
    assert is_ready(server)
    assert is_ready(server, "v2/health/ready")
    for _ in range(4):
        assert "is not healthy" in ask(server.grpc_url, [5], SHORT)[-1].error
    assert not runtime_files(server)
    server.process.kill()
    server.process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("action", ["load", "unload"])
def test_a_reload_or_unload_while_an_engine_is_started_again(start_server: StartServer, action: str) -> None:
    server = start_server({"max_rows": 2}, instances=2)
    server.wait_ready()
    waiting = [Call(server.grpc_url, arrays_of(PROMPTS[0], THOUSAND)) for _ in range(3)]
    wait_running(server, 2, waiting=1)
    os.kill(engine_of(server), signal.SIGKILL)
    config = server.folder / "models" / "flover" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 2", "count: 1"))
    status, text = post(f"{server.http_url}/v2/repository/models/flover/{action}", {})
    assert status == 200, text
    assert [len(ids_of(call.rest())) for call in waiting] == [1000] * 3
    if action == "unload":
        wait_for(lambda: not server.descendants(), timeout_s=60)
        wait_for(lambda: not runtime_files(server))
        status, text = post(f"{server.http_url}/v2/repository/models/flover/load", {})
        assert status == 200, text
    wait_for_engine(server)
    wait_for(lambda: len(fronts_of(server)) == 1, timeout_s=60)
    assert len(engines_of(server)) == 1
    server.stop()
    assert not runtime_files(server)
