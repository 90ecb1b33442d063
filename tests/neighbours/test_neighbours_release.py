"""What the server of the wheel, 24.10, does with what releases differ in. docs/support.md refers to these tests."""

from __future__ import annotations

import json
import re

import pytest
from calls import PROMPT, call, text
from live_metrics import series
from live_server import LiveServer
from server_control import infos, settled
from triton_client import Call, arrays_of, post

ENDLESS = {"max_tokens": 1500, "ignore_eos": True}


def test_a_timeout_over_grpc_ends_the_answer(server: LiveServer) -> None:
    arrays = arrays_of([5, 6], ENDLESS, stream=True, return_finish_reason=True)
    last = Call(server.grpc_url, arrays, timeout=400_000).rest()[-1]
    assert last.outputs["finish_reason"].tolist() == [b"deadline"]


def test_a_priority_over_grpc_is_taken(server: LiveServer) -> None:
    assert len(text(call(server, "flover", priority=2).rest())) > len(PROMPT)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("timeout", 60_000_000, "length"), ("timeout", 400_000, "deadline"), ("priority", 1, "length")],
)
def test_triton_s_names_on_the_generate_endpoint(server: LiveServer, name: str, value: int, reason: str) -> None:
    """24.10 hands them over as request parameters."""
    tokens = 1500 if reason == "deadline" else 3
    body = {"text_input": PROMPT, "max_tokens": tokens, "ignore_eos": True, "return_finish_reason": True, name: value}
    status, answer = post(f"{server.http_url}/v2/models/flover/generate", body)
    assert status == 200, answer
    assert json.loads(answer)["finish_reason"] == reason


def load_report(exposition: dict[str, float], model: str) -> dict[str, float]:
    """What servers from 25.03 on put into the load-report header, by their rule: three series of one family."""
    family = "nv_trt_llm_kv_cache_block_metrics"
    pattern = re.compile(rf'{family}{{.*kv_cache_block_type="(used|max|tokens_per)".*model="{model}".*}}')
    found = {match[1]: value for name, value in exposition.items() if (match := pattern.fullmatch(name))}
    return {
        "kv_cache_utilization": found["used"] / found["max"],
        "max_token_capacity": found["max"] * found["tokens_per"],
    }


def test_the_series_that_the_load_report_header_is_made_from(server: LiveServer) -> None:
    scrape = settled(server)
    report = load_report(dict(scrape), "flover")
    assert report["kv_cache_utilization"] == 0
    free = scrape[series("flover_kv_blocks_free")]
    (info,) = infos(scrape, "flover")
    assert report["max_token_capacity"] == free * float(re.search(r'block_size="(\d+)"', info)[1])
