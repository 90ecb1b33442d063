"""Other models of the server answer while ours loads, fails to load, serves at its limit and reloads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from asker import Asker
from calls import GREEDY, PROMPT, ask, call, text
from live_metrics import series, value, wait_idle
from live_server import LiveServer, is_running, wait_for
from repository import add_model
from server_control import engines_of, infos, repository_call, settled

WHOLE_CONTEXT = {"max_tokens": 1900, "ignore_eos": True}


def test_a_neighbour_answers_while_ours_loads_and_unloads(server: LiveServer, neighbour: Asker) -> None:
    add_model(server.folder / "models", "passing", {1: {"max_rows": 2}})
    with neighbour.answers_during():
        assert repository_call(server, "load", "passing")[0] == 200
    (engine,) = engines_of(server, "passing")
    assert len(text(ask(server, "passing"))) > len(PROMPT)
    with neighbour.answers_during():
        assert repository_call(server, "unload", "passing")[0] == 200
        wait_for(lambda: not is_running(engine))
        neighbour.wait_for_more(2)
    gauges = {name: number for name, number in server.metrics().items() if 'model="passing"' in name and "kv_" in name}
    assert len(gauges) > 5
    assert set(gauges.values()) == {0}, "what is gone holds no blocks and has none free"


def test_a_neighbour_answers_while_ours_fails_to_load(server: LiveServer, neighbour: Asker) -> None:
    add_model(server.folder / "models", "failing", {1: {"kv_cache_tokens": 64}})
    with neighbour.answers_during():
        status, answer = repository_call(server, "load", "failing")
    assert status == 400
    assert "kv_cache_tokens 64" in answer
    assert engines_of(server, "failing") == []


@contextmanager
def saturated(server: LiveServer) -> Iterator[None]:
    """A request in each of the four rows of `flover`, and one in each of the eight places of its queue."""
    calls = []
    try:
        for name, count in (("flover_requests_running", 4), ("flover_requests_waiting", 8)):
            calls += [call(server, "flover", parameters=WHOLE_CONTEXT, stream=True) for _ in range(count)]
            wait_for(lambda name=name, count=count: value(server, name) == count)
        yield
    finally:
        for one in calls:
            one.cancel()


def test_a_neighbour_answers_while_ours_serves_at_its_limit(server: LiveServer, neighbour: Asker) -> None:
    with saturated(server):
        with neighbour.answers_during():
            refusals = [ask(server, "flover")[0].error for _ in range(8)]
            neighbour.wait_for_more(20)
        assert all("the queue is full: 8 requests" in refusal for refusal in refusals)
    wait_idle(server)


def test_a_neighbour_answers_while_ours_reloads_and_is_asked(server: LiveServer, neighbour: Asker) -> None:
    """A changed configuration: the new engine loads beside the old one, which ends its stream."""
    (old,) = engines_of(server, "flover")
    running = call(server, "flover", parameters=WHOLE_CONTEXT, stream=True)
    first = running.next()
    path = server.folder / "models" / "flover" / "1" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_rows": 5}))
    with neighbour.answers_during():
        assert repository_call(server, "load", "flover")[0] == 200
    with neighbour.answers_during():
        whole = text([first, *running.rest()])
        assert len(whole) > 1000
        wait_for(lambda: not is_running(old), timeout_s=30)
    assert len(text(ask(server, "flover", parameters=GREEDY))) > len(PROMPT)
    wait_for(lambda: len(infos(server.metrics(), "flover")) == 1)
    (info,) = infos(server.metrics(), "flover")
    assert 'max_rows="5"' in info
    scrape = settled(server)
    series_of_blocks = [
        series("nv_trt_llm_kv_cache_block_metrics", kv_cache_block_type=kind) for kind in ("max", "free")
    ]
    assert scrape[series_of_blocks[0]] == scrape[series_of_blocks[1]] > 0, (
        "the old engine's end left the new one's gauges"
    )
