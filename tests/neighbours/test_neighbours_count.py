"""`count` from 1 to 8: requests spread over the fronts, all are answered, one engine, metrics counted once."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from live_metrics import series
from live_server import LiveServer, wait_for
from repository import add_model
from server_control import engines_of, load, settled, unload
from triton_client import Call, arrays_of, ids_of

REQUESTS = 24
TOKENS = 10


@pytest.mark.slow
@pytest.mark.parametrize("count", range(1, 9))
def test_so_many_fronts_share_one_engine(server: LiveServer, count: int) -> None:
    name = f"fronts{count}"
    add_model(server.folder / "models", name, {1: {"max_rows": 8}}, count=count)
    load(server, name)
    assert len(engines_of(server, name)) == 1
    before = settled(server)
    parameters = {"max_tokens": TOKENS, "ignore_eos": True}
    calls = [Call(server.grpc_url, arrays_of([5, 6], parameters), name) for _ in range(REQUESTS)]
    assert [len(ids_of(call.rest())) for call in calls] == [TOKENS] * REQUESTS

    def spread() -> Counter[str]:  # each front has its line of each of its requests
        return Counter(re.findall(rf"flover {name}_0_(\d) v1: request key=", server.log()))

    wait_for(lambda: sum(spread().values()) == REQUESTS)
    assert sorted(spread()) == [str(number) for number in range(count)], "a front got no request"

    def grown(family: str, **labels: str) -> float:
        label = series(family, name, **labels)
        return server.metrics()[label] - before[label]

    wait_for(lambda: grown("vllm:generation_tokens_total") >= REQUESTS * TOKENS)
    settled(server)
    assert grown("vllm:generation_tokens_total") == REQUESTS * TOKENS
    assert grown("flover_requests_finished_total", reason="length") == REQUESTS
    unload(server, name)
