"""The table of metric families: what the engine counts and what a front declares to Triton. Data, no behaviour.

A series is written `name` or `name{label="value",...}` with sorted labels, as the `Metrics` message carries it. The
exporting front adds the labels `model` and `version`. A distribution is exported as three counter families:
`<name>_bucket{le="..."}` (cumulative, the last bound is +Inf), `<name>_sum` and `<name>_count`.

Tokens are counted when the engine hands them to a front for delivery. A request whose front looks for stop strings
(`Request.has_stop_strings`) is counted when it ends and the front has had a second to find one, so that tokens after a
stop string are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ROW_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0)
FAST_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
"""Seconds between two tokens."""
SLOW_BOUNDS = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 120.0)
"""Seconds of a request or of its first token."""

FINISH_REASONS = ("stop", "length", "deadline", "cancelled", "shutdown")
OUTCOMES = ("finished", "cancelled", "failed")
REJECT_REASONS = ("invalid_arg", "queue_full", "draining", "restarting", "internal")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family."""

    name: str
    kind: Literal["counter", "gauge", "distribution"]
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Upper bounds of a distribution's buckets, without +Inf."""
    by_fronts: bool = False
    """Each front counts and writes its own share, which no engine's death can take with it."""


FAMILIES: tuple[Family, ...] = (
    Family("flover_requests_running", "gauge", "Requests that have at least one row."),
    Family("flover_requests_waiting", "gauge", "Requests that wait for a row, preempted ones among them."),
    Family("flover_waiting_tokens", "gauge", "Prompt tokens of the requests that wait."),
    Family("flover_kv_blocks_used", "gauge", "Blocks of the KV buffer that requests hold."),
    Family("flover_kv_blocks_free", "gauge", "Blocks of the KV buffer that nobody holds."),
    Family("flover_kv_blocks_used_max", "gauge", "Most blocks held at once since the engine started."),
    Family("flover_kv_bytes_mapped", "gauge", "Bytes of memory behind the KV buffer."),
    Family(
        "flover_model_info",
        "gauge",
        "1; the labels say what was loaded.",
        ("block_size", "dtype", "max_model_len", "max_rows", "reorder"),
    ),
    Family("flover_iterations_total", "counter", "Fused iterations that computed something."),
    Family("flover_iteration_seconds_total", "counter", "Seconds spent in fused iterations."),
    Family("flover_iteration_rows", "distribution", "Rows in an iteration.", (), ROW_BOUNDS),
    Family("flover_reorders_total", "counter", "Iterations that moved rows or blocks to keep the batch dense."),
    Family("flover_reorder_rows_moved_total", "counter", "Rows moved by the reorder step."),
    Family("flover_reorder_blocks_moved_total", "counter", "KV blocks moved by the reorder step."),
    Family("flover_reorder_bytes_moved_total", "counter", "Bytes of row state and KV moved by the reorder step."),
    Family("flover_reorder_seconds_total", "counter", "Seconds spent in the reorder step."),
    Family(
        "flover_prefill_tokens_total",
        "counter",
        "Tokens computed by prefill. Recomputation after a preemption counts again (prompt and earlier output).",
    ),
    Family(
        "flover_decode_tokens_total", "counter", "Generated tokens delivered, the first of each sequence among them."
    ),
    Family("flover_preemptions_total", "counter", "Sequences thrown out for want of blocks, to be recomputed."),
    Family(
        "flover_coalesced_responses_total", "counter", "Responses saved because tokens that waited went out together."
    ),
    Family(
        "flover_requests_finished_total",
        "counter",
        "Accepted requests that ended in the engine, by reason; deadline: with or without a token. What an engine dies "
        "with is in none.",
        ("reason",),
    ),
    Family(
        "flover_requests_accepted_total",
        "counter",
        "Requests that were accepted and have had news or an end: each once, however often their engine died.",
        by_fronts=True,
    ),
    Family(
        "flover_requests_ended_total",
        "counter",
        "Accepted requests that have had their FINAL: all, once nothing runs, but for those of killed fronts. "
        "finished: whole, or cut by a deadline after the first token; cancelled; failed: INTERNAL, or UNAVAILABLE at a "
        "deadline before the first token or by a drain.",
        ("outcome",),
        by_fronts=True,
    ),
    Family("flover_requests_rejected_total", "counter", "Requests that were never accepted, by reason.", ("reason",)),
    Family(
        "flover_engine_restarts_total",
        "counter",
        "Engines started in the place of one that died or hung, those that died while they loaded among them.",
        by_fronts=True,
    ),
    Family("flover_integrity_failures_total", "counter", "Idle checks that found rows or blocks leaked; 0 is right."),
    Family(
        "flover_time_to_first_token_seconds",
        "distribution",
        "From a request's arrival in its front to its first token.",
        (),
        SLOW_BOUNDS,
    ),
    Family(
        "flover_inter_token_latency_seconds",
        "distribution",
        "Between two tokens of a sequence, as the engine hands them out.",
        (),
        FAST_BOUNDS,
    ),
    Family("flover_queue_time_seconds", "distribution", "From a request's arrival to its first row.", (), SLOW_BOUNDS),
    Family(
        "flover_e2e_latency_seconds", "distribution", "From a request's arrival to its last token.", (), SLOW_BOUNDS
    ),
    Family("vllm:prompt_tokens_total", "counter", "Prompt tokens of requests that got a first token, each once."),
    Family("vllm:generation_tokens_total", "counter", "The same as flover_decode_tokens_total."),
    Family(
        "vllm:time_to_first_token_seconds",
        "distribution",
        "The same as flover_time_to_first_token_seconds.",
        (),
        SLOW_BOUNDS,
    ),
    Family(
        "vllm:time_per_output_token_seconds",
        "distribution",
        "The same as flover_inter_token_latency_seconds.",
        (),
        FAST_BOUNDS,
    ),
    Family(
        "vllm:e2e_request_latency_seconds", "distribution", "The same as flover_e2e_latency_seconds.", (), SLOW_BOUNDS
    ),
    Family(
        "nv_trt_llm_request_metrics",
        "gauge",
        "Requests waiting and active, as TensorRT-LLM names them.",
        ("request_type",),
    ),
    Family(
        "nv_trt_llm_kv_cache_block_metrics",
        "gauge",
        "KV blocks: used, max, free, tokens_per block, fraction used; as TensorRT-LLM names them.",
        ("kv_cache_block_type",),
    ),
)


def series(name: str, **labels: str) -> str:
    """The name of one series, labels sorted. Values must not hold quotes, backslashes or line ends."""
    inner = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{inner}}}" if inner else name


def parse_series(text: str) -> tuple[str, dict[str, str]]:
    """(family name, labels) of a series name that `series` made."""
    name, _, inner = text.partition("{")
    pairs = (pair.partition("=") for pair in inner.removesuffix("}").split(",") if pair)
    return name, {label: value.strip('"') for label, _, value in pairs}


def declared() -> list[Family]:
    """The table with each distribution as the three counter families it is exported as."""
    families: list[Family] = []
    for family in FAMILIES:
        if family.kind != "distribution":
            families.append(family)
            continue
        families.append(Family(f"{family.name}_bucket", "counter", f"{family.help} Buckets.", ("le",), family.bounds))
        families.append(Family(f"{family.name}_sum", "counter", f"{family.help} Sum."))
        families.append(Family(f"{family.name}_count", "counter", f"{family.help} Count."))
    return families
