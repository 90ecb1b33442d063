"""/metrics of a fresh server, to the last token; and who writes them when a front dies.

One server, used in order: its totals start at zero.
"""

from __future__ import annotations

import os
import signal

import pytest
from live_metrics import Scrape, is_idle, num_ended, series, wait_settled
from live_server import LiveServer, StartServer, command_line, is_running, shared_memory_of, wait_for
from triton_client import Call, arrays_of, ask, ids_of

from flover_backend.metric_families import FAMILIES, FINISH_REASONS, REJECT_REASONS

NUM_REQUESTS, PROMPT, NUM_TOKENS = 5, [5, 6, 7, 8, 9, 10, 11], 6
EXACT = {"temperature": 0, "max_tokens": NUM_TOKENS, "ignore_eos": True}
NUM_BLOCKS = 4096  # 32 rows of 2,048 tokens in blocks of 16
BYTES_PER_TOKEN = 2 * 5 * 2 * 32 * 4  # keys and values, layers, heads, head_dim, float32


@pytest.fixture(scope="module")
def fresh(start_server: StartServer) -> LiveServer:
    # NOTE: a server one of whose stubs was killed waits for it until its exit timeout.
    running = start_server(instances=2, arguments=("--exit-timeout-secs=2",))
    running.wait_ready()
    return running


def check(scrape: Scrape, expected: dict[str, float]) -> None:
    assert {name: scrape[series(name)] for name in expected} == expected


def test_everything_is_there_and_zero_before_the_first_request(fresh: LiveServer) -> None:
    wait_for(lambda: fresh.metrics()[series("flover_kv_blocks_free")] == NUM_BLOCKS)
    scrape = fresh.metrics()
    assert is_idle(scrape)
    for family in FAMILIES:
        names = [f"{family.name}_count", f"{family.name}_sum"] if family.kind == "distribution" else [family.name]
        for name in names if not family.labels else ():
            assert series(name) in scrape
            assert family.kind == "gauge" or scrape[series(name)] == 0
    assert all(scrape[series("flover_requests_finished_total", reason=reason)] == 0 for reason in FINISH_REASONS)
    assert all(scrape[series("flover_requests_rejected_total", reason=reason)] == 0 for reason in REJECT_REASONS)
    info = {"max_model_len": "2048", "max_rows": "32", "block_size": "16", "dtype": "float32", "reorder": "rows"}
    assert scrape[series("flover_model_info", **info)] == 1
    assert scrape[series("flover_kv_bytes_mapped")] == (NUM_BLOCKS + 1) * 16 * BYTES_PER_TOKEN


def test_so_many_prompts_and_tokens(fresh: LiveServer) -> None:
    for _ in range(NUM_REQUESTS):
        assert len(ids_of(ask(fresh.grpc_url, PROMPT, EXACT))) == NUM_TOKENS
    scrape = wait_settled(fresh, NUM_REQUESTS)
    prompts, tokens = NUM_REQUESTS * len(PROMPT), NUM_REQUESTS * NUM_TOKENS
    check(
        scrape,
        {
            "vllm:prompt_tokens_total": prompts,
            "vllm:generation_tokens_total": tokens,
            "flover_prefill_tokens_total": prompts,
            "flover_decode_tokens_total": tokens,
            "flover_iterations_total": tokens,  # one after another: a prefill, which yields a token, and the decodes
            "flover_iteration_rows_count": tokens,
            "flover_iteration_rows_sum": tokens,
            "flover_time_to_first_token_seconds_count": NUM_REQUESTS,
            "flover_inter_token_latency_seconds_count": NUM_REQUESTS * (NUM_TOKENS - 1),
            "flover_queue_time_seconds_count": NUM_REQUESTS,
            "flover_e2e_latency_seconds_count": NUM_REQUESTS,
            "vllm:time_to_first_token_seconds_count": NUM_REQUESTS,
            "vllm:time_per_output_token_seconds_count": NUM_REQUESTS * (NUM_TOKENS - 1),
            "vllm:e2e_request_latency_seconds_count": NUM_REQUESTS,
            "flover_kv_blocks_used_max": 1,
            "flover_kv_blocks_free": NUM_BLOCKS,
            "flover_preemptions_total": 0,
            "flover_reorders_total": 0,
            "flover_integrity_failures_total": 0,
        },
    )
    assert scrape[series("flover_requests_finished_total", reason="length")] == NUM_REQUESTS
    blocks = {"used": 0, "max": NUM_BLOCKS, "free": NUM_BLOCKS, "tokens_per": 16, "fraction": 0}
    for kind, expected in blocks.items():
        assert scrape[series("nv_trt_llm_kv_cache_block_metrics", kv_cache_block_type=kind)] == expected
    for kind in ("waiting", "active"):
        assert scrape[series("nv_trt_llm_request_metrics", request_type=kind)] == 0


def test_several_sequences_a_stop_string_and_a_refusal(fresh: LiveServer) -> None:
    before = wait_settled(fresh, NUM_REQUESTS)
    whole = ids_of(ask(fresh.grpc_url, PROMPT, EXACT | {"n": 3, "temperature": 1}))
    assert len(whole) == 3 * NUM_TOKENS
    stopped = ids_of(ask(fresh.grpc_url, PROMPT, EXACT | {"max_tokens": 400, "stop": "e"}))
    assert len(stopped) < 400
    assert ask(fresh.grpc_url, PROMPT, {"n": 0})[0].error
    refused = series("flover_requests_rejected_total", reason="invalid_arg")
    wait_for(lambda: fresh.metrics()[refused] == 1)
    scrape = wait_settled(fresh, NUM_REQUESTS + 2)

    def grown(name: str, **labels: str) -> float:
        return scrape[series(name, **labels)] - before[series(name, **labels)]

    assert grown("vllm:prompt_tokens_total") == grown("flover_prefill_tokens_total") == 2 * len(PROMPT)
    assert grown("vllm:generation_tokens_total") == len(whole) + len(stopped)
    assert grown("flover_time_to_first_token_seconds_count") == 2
    assert grown("flover_requests_finished_total", reason="length") == 1
    assert grown("flover_requests_finished_total", reason="stop") == 1


def test_distributions_read_as_histograms(fresh: LiveServer) -> None:
    scrape = wait_settled(fresh)
    for family in FAMILIES:
        if family.kind != "distribution":
            continue
        bounds = [*(f"{bound:g}" for bound in family.bounds), "+Inf"]
        buckets = [scrape[series(f"{family.name}_bucket", le=bound)] for bound in bounds]
        count, total = scrape[series(f"{family.name}_count")], scrape[series(f"{family.name}_sum")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == count > 0
        assert total > 0
    pairs = (
        ("vllm:time_to_first_token_seconds_sum", "flover_time_to_first_token_seconds_sum"),
        ("vllm:time_per_output_token_seconds_sum", "flover_inter_token_latency_seconds_sum"),
        ("vllm:e2e_request_latency_seconds_sum", "flover_e2e_latency_seconds_sum"),
    )
    assert all(scrape[series(alias)] == scrape[series(name)] for alias, name in pairs)


def front_pids(server: LiveServer) -> list[int]:
    return [pid for pid in server.descendants() if "triton_python_backend_stub" in command_line(pid)[0]]


def test_totals_go_on_when_the_leading_front_dies(fresh: LiveServer) -> None:
    """The front that started the engine leads. What the dead front had in hand ends; the other serves on."""
    before = wait_settled(fresh)
    fronts = front_pids(fresh)
    assert len(fronts) == 2
    engine = next(pid for pid in fresh.descendants() if "flover_backend.engine.process" in command_line(pid))
    (leader,) = [pid for pid in fronts if str(engine) in children_of(pid)]
    regions = shared_memory_of(leader)
    os.kill(leader, signal.SIGKILL)
    wait_for(lambda: not is_running(leader))
    for region in regions:  # whose owner can no longer remove it
        region.unlink()
    assert is_running(engine)
    served = 0
    for _ in range(6):
        call = Call(fresh.grpc_url, arrays_of(PROMPT, EXACT, stream=True))
        answers = call.rest()
        served += not answers[-1].error
    assert served >= 3
    scrape = wait_settled(fresh, num_ended(before) + served)
    name = series("vllm:generation_tokens_total")
    prompts = series("vllm:prompt_tokens_total")
    assert scrape[prompts] == before[prompts] + served * len(PROMPT)
    assert scrape[name] == before[name] + served * NUM_TOKENS
    finished = series("flover_requests_finished_total", reason="length")
    assert scrape[finished] == before[finished] + served


def children_of(pid: int) -> list[str]:
    tasks = [entry.path for entry in os.scandir(f"/proc/{pid}/task")]
    return [child for task in tasks for child in open(f"{task}/children").read().split()]
