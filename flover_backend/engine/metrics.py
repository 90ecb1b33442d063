"""Totals and distributions of the engine, aggregated here so that one front can write them all.

`metric_families` says what each family means. Counters only grow. Knows no sockets and no Triton.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from flover_backend.channel import EngineInfo, FrontStats, Metrics
from flover_backend.engine.held import EndedRequest
from flover_backend.engine.interface import EngineGauges, StepStats
from flover_backend.engine.live import LiveRequest, LiveSequence
from flover_backend.metric_families import (
    FAMILIES,
    FINISH_REASONS,
    REJECT_REASONS,
    series,
)

ALIASES = {
    "vllm:time_to_first_token_seconds": "flover_time_to_first_token_seconds",
    "vllm:time_per_output_token_seconds": "flover_inter_token_latency_seconds",
    "vllm:e2e_request_latency_seconds": "flover_e2e_latency_seconds",
}


class Distribution:
    """Counts of values by upper bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Add a value; a bound includes itself (`le`)."""
        self._counts[bisect_left(self.bounds, value)] += times
        self._sum += value * times

    def series(self, name: str) -> dict[str, float]:
        """`name_bucket{le}` cumulative, `name_sum`, `name_count`."""
        labels = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        totals = list(accumulate(self._counts))
        buckets = {series(f"{name}_bucket", le=label): float(n) for label, n in zip(labels, totals, strict=True)}
        return {**buckets, f"{name}_sum": self._sum, f"{name}_count": float(totals[-1])}


class EngineMetrics:
    """What `Metrics` snapshots are made of. All methods are called from the main thread."""

    def __init__(self, info: EngineInfo) -> None:
        self._info = info
        self._sequence = 0
        counters = [family for family in FAMILIES if family.kind == "counter" and not family.by_fronts]
        self._counters = {family.name: 0.0 for family in counters if not family.labels}
        self._finished = dict.fromkeys(FINISH_REASONS, 0)
        self._rejected = dict.fromkeys(REJECT_REASONS, 0)
        self._distributions = {
            family.name: Distribution(family.bounds)
            for family in FAMILIES
            if family.kind == "distribution" and family.name not in ALIASES
        }

    def iteration(self, stats: StepStats) -> None:
        """An iteration computed something."""
        record = stats.iteration
        self._add("flover_iterations_total", 1)
        self._add("flover_iteration_seconds_total", record.seconds)
        self._add("flover_prefill_tokens_total", record.prefill_tokens)
        self._add("flover_preemptions_total", stats.preemptions)
        self._distributions["flover_iteration_rows"].observe(record.num_rows)
        if record.row_moves or record.block_moves:
            self._add("flover_reorders_total", 1)
            self._add("flover_reorder_rows_moved_total", record.row_moves)
            self._add("flover_reorder_blocks_moved_total", record.block_moves)
            self._add("flover_reorder_bytes_moved_total", stats.bytes_moved)
            self._add("flover_reorder_seconds_total", stats.reorder_seconds)

    def started(self, queue_seconds: float) -> None:
        """A request got its first row, so long after its arrival."""
        self._distributions["flover_queue_time_seconds"].observe(queue_seconds)

    def tokens(self, live: LiveRequest, sequence: LiveSequence, num_new: int, now: float) -> None:
        """`num_new` tokens of a sequence go to its front; `live` and `sequence` do not count them yet."""
        if not num_new:
            return
        if not live.has_first_token:
            self._add("vllm:prompt_tokens_total", live.num_prompt_tokens)
            self._distributions["flover_time_to_first_token_seconds"].observe(now - live.arrival_time)
        if sequence.num_tokens:
            gap = (now - sequence.last_time) / num_new
            self._distributions["flover_inter_token_latency_seconds"].observe(gap, num_new)
        if not live.counts_at_end:
            self._delivered(num_new)

    def request_ended(self, ended: EndedRequest) -> None:
        """An accepted request is over, and its front has found what stop strings there are."""
        self._finished[ended.reason] += 1
        self._distributions["flover_e2e_latency_seconds"].observe(ended.time - ended.live.arrival_time)
        if ended.live.counts_at_end:
            self._delivered(sum(sequence.num_delivered for sequence in ended.live.sequences))

    def rejected(self, reason: str, count: int = 1) -> None:
        """Requests were refused, here or in a front."""
        self._rejected[reason] = self._rejected.get(reason, 0) + count

    def front(self, stats: FrontStats) -> None:
        """A front reports what only it can count."""
        self._add("flover_coalesced_responses_total", stats.coalesced_responses)
        for reason, count in stats.rejected.items():
            self.rejected(reason if reason in REJECT_REASONS else "internal", count)

    def integrity_failure(self) -> None:
        """An idle check found a leak."""
        self._add("flover_integrity_failures_total", 1)

    def snapshot(self, gauges: EngineGauges) -> Metrics:
        """Everything, numbered."""
        self._sequence += 1
        return Metrics(self._sequence, self._counter_series(), self._gauge_series(gauges))

    def _counter_series(self) -> dict[str, float]:
        counters = dict(self._counters)
        counters |= {series("flover_requests_finished_total", reason=r): float(n) for r, n in self._finished.items()}
        counters |= {series("flover_requests_rejected_total", reason=r): float(n) for r, n in self._rejected.items()}
        for name, distribution in self._distributions.items():
            counters |= distribution.series(name)
        for alias, name in ALIASES.items():
            counters |= self._distributions[name].series(alias)
        return counters

    def _gauge_series(self, gauges: EngineGauges) -> dict[str, float]:
        info = self._info
        limits = {"max_model_len": str(info.max_model_len), "max_rows": str(info.max_rows)}
        model = series(
            "flover_model_info", block_size=str(info.block_size), dtype=info.dtype, reorder=info.reorder, **limits
        )
        kv_blocks = {
            "used": gauges.used_blocks,
            "max": info.num_blocks,
            "free": gauges.free_blocks,
            "tokens_per": info.block_size,
            "fraction": gauges.used_blocks / info.num_blocks,
        }
        return {
            "flover_requests_running": float(gauges.num_running),
            "flover_requests_waiting": float(gauges.num_waiting),
            "flover_waiting_tokens": float(gauges.num_waiting_tokens),
            "flover_kv_blocks_used": float(gauges.used_blocks),
            "flover_kv_blocks_free": float(gauges.free_blocks),
            "flover_kv_blocks_used_max": float(gauges.most_used_blocks),
            "flover_kv_bytes_mapped": float(gauges.kv_bytes_mapped),
            model: 1.0,
            series("nv_trt_llm_request_metrics", request_type="waiting"): float(gauges.num_waiting),
            series("nv_trt_llm_request_metrics", request_type="active"): float(gauges.num_running),
            **{
                series("nv_trt_llm_kv_cache_block_metrics", kv_cache_block_type=kind): float(value)
                for kind, value in kv_blocks.items()
            },
        }

    def _delivered(self, count: int) -> None:
        self._add("flover_decode_tokens_total", count)
        self._add("vllm:generation_tokens_total", count)

    def _add(self, name: str, amount: float) -> None:
        assert name in self._counters, f"{name} is not in the table of families"
        self._counters[name] += amount
