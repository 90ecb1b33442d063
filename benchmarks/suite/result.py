"""What a run of one workload gave, and the file that holds many of them.

Times are seconds after the workload's start, as its requests' `at`. Knows nothing of how they were served.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec


class RequestResult(msgspec.Struct, frozen=True, kw_only=True):
    """One request, as its caller saw it."""

    at: float
    """When it should have been sent."""
    sent: float
    first: float
    """Its first token (or its only answer, where all tokens come at once)."""
    end: float
    prompt_tokens: int
    new_tokens: int
    """That it got; fewer than asked only after a cancellation or a deadline."""
    error: str = ""
    """Why it failed; its times are then those of the failure."""
    gap_p99_ms: float = 0.0
    """p99 (nearest rank) of the times between its own consecutive responses; 0 with fewer than two of them."""


class Run(msgspec.Struct, kw_only=True):
    """One workload, served in one way through one layer."""

    way: str
    """`fused`, `none` (fused without reorder), `serial` (one after another), `instances` (a model instance each),
    `dynamic` (dynamic batching), `static` (batches of a fixed size)."""
    layer: str
    """`engine`, `triton`, `pytriton`, `perf_analyzer`, or `triton-instances`, `triton-dynamic` (Triton's own)."""
    model: str
    workload: str
    kind: str
    facts: dict[str, Any]
    """The workload's (workload.py); `scale` among them where the papers' gaps were multiplied."""
    command: str = ""
    commit: str = ""
    """Of this run, as a file may hold those of several commands (merge.py). Empty in older files: see `Results`."""
    settings: dict[str, Any] = {}
    """Of the way: window_ms, batch_size, instances ..."""
    single_s: float | None = None
    """A lone request's time on this layer in this run of the suite."""
    requests: Annotated[list[RequestResult], msgspec.Meta(min_length=1)]
    gaps_ms: dict[str, float] = {}
    """p50, p90, p99, max of the times between a request's consecutive responses."""
    iterations: list[tuple[float, int]] = []
    """(end of an iteration, live rows in it) of every `iteration_stride`-th, at most 2,000; engine layer only."""
    widths: list[int] = []
    """Of each of `iterations`: the rows that it computed, those of ended requests included. Of fused and none; empty in
    older files."""
    iteration_stride: int = 1
    num_responses: int | None = None

    @property
    def wall_s(self) -> float:
        """From the first request sent until the last token."""
        return max(r.end for r in self.requests) - min(r.sent for r in self.requests)

    @property
    def scale(self) -> float | None:
        """What the papers' gaps were multiplied by: a lone request's time then and there over the paper's, whose
        Poisson sweep has a lone time of its own. None without such gaps: bursts, chat mixes."""
        return float(self.facts["scale"]) if self.facts.get("paper_gap_ms") and "scale" in self.facts else None


class Results(msgspec.Struct, kw_only=True):
    """The file `results.json`."""

    command: str
    commit: str
    machine: dict[str, Any]
    """Device, versions (flover_backend/bench_engine/machine.py)."""
    copy_bandwidth: float
    """Bytes a second, read and written."""
    products_ms: dict[int, float]
    """The model's weight products by rows, in this run: S without its KV."""
    scale: float
    """Of the constant gaps, in the last command that is in the file; each run has its own."""
    runs: list[Run]
    single_s: float | None = None
    """A lone request's time on the bare engine, measured before the runs; None in older files."""
    kv_bytes_per_token: int = 0
    """Of all layers, for the KV part of S; 0 where no engine layer ran."""
    num_gpus: int = 1
    failed: list[str] = []
    """A line for each run that gave no figure; empty in older files."""
    seconds: float = 0.0
    """Of the commands whose runs are in the file; 0 where that is not known (merge.py)."""
