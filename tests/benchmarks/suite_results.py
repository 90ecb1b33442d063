"""Results as an engine that makes every iteration in a known time would give them: for tests of figures and plots."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np

from benchmarks.suite.result import RequestResult, Results, Run

PRODUCTS_MS = {1: 6.6, 8: 6.7, 32: 6.8, 64: 7.0, 128: 7.6, 256: 11.5}
COPY_BANDWIDTH, KV_BYTES_PER_TOKEN = 4.26e12, 819_200
PAPER_SINGLE_S = 9.1


def made_results(runs: Sequence[Run] = (), **changes: object) -> Results:
    """With the machine's facts as machine.py names them."""
    machine = {"gpu": "Made-up GPU", "driver": "1.2", "cpus": 16, "torch": "2.11", "triton": "3.6", "cuda": "13.0"}
    fields: dict[str, object] = {
        "command": "python -m benchmarks",
        "commit": "abc",
        "machine": machine,
        "copy_bandwidth": COPY_BANDWIDTH,
        "products_ms": PRODUCTS_MS,
        "scale": step_ms(1) * 504 / 1e3 / PAPER_SINGLE_S,
        "kv_bytes_per_token": KV_BYTES_PER_TOKEN,
        "runs": list(runs),
    }
    return Results(**{**fields, **changes})  # type: ignore[arg-type]


def step_ms(rows: int, live_tokens: float | None = None, overhead: float = 1.05) -> float:
    """Of an iteration; without its live tokens: with a mean context of 260."""
    products = float(np.interp(rows, list(PRODUCTS_MS), list(PRODUCTS_MS.values())))
    kv_bytes = KV_BYTES_PER_TOKEN * (rows * 260 if live_tokens is None else live_tokens)
    return overhead * (products + kv_bytes / COPY_BANDWIDTH * 1e3)


def made_run(
    way: str,
    arrivals: Sequence[tuple[float, int, int]],
    workload: str,
    kind: str,
    layer: str = "engine",
    model: str = "llama-13b",
    **facts: object,
) -> Run:
    """Serve (at, prompt, new tokens): `fused`, `none`, `serial`, `instances` (time shared) or `dynamic`."""
    rows_at_once = {"serial": 1, "dynamic": 16}.get(way, 256)
    slower = 1.0 if layer == "engine" else 1.01
    waiting, live = list(enumerate(arrivals)), dict[int, int]()
    first, end, iterations, now = dict[int, float](), dict[int, float](), list[tuple[float, int]](), 0.0
    padded, widths = 0, list[int]()
    while waiting or live:
        if not live and waiting:
            now = max(now, waiting[0][1][0])
        if not (way in ("dynamic", "serial") and live):
            while waiting and waiting[0][1][0] <= now and len(live) < rows_at_once:
                number, (_, _, count) = waiting.pop(0)
                live[number] = count
            padded = max(padded, len(live)) if live else 0
        # Instances share one device in time: each reads the weights for itself.
        rows = padded if way in ("none", "dynamic") else len(live)
        context = sum(arrivals[n][1] + arrivals[n][2] - left for n, left in live.items())
        now += slower * (step_ms(1) * len(live) * 1.1 if way == "instances" else step_ms(rows, context)) / 1e3
        iterations.append((now, len(live)))
        widths.append(rows)
        for number in list(live):
            first.setdefault(number, now)
            live[number] -= 1
            if live[number] == 0:
                end[number] = now
                del live[number]
        padded = padded if live else 0
    requests = []
    for number, (at, prompt, count) in enumerate(arrivals):
        began = end[number] if way == "dynamic" else first[number]
        gap = (end[number] - began) / max(count - 1, 1) * 1e3 * 1.3
        requests.append(
            RequestResult(at=at, sent=at, first=began, end=end[number], prompt_tokens=prompt, new_tokens=count,
                          gap_p99_ms=gap)
        )  # fmt: skip
    stride = math.ceil(len(iterations) / 2000)
    return Run(
        way=way,
        layer=layer,
        model=model,
        workload=workload,
        kind=kind,
        facts={"num_requests": len(arrivals), **facts},
        single_s=step_ms(1) * 504 / 1e3,
        requests=requests,
        iterations=iterations[::stride] if layer == "engine" else [],
        widths=widths[::stride] if layer == "engine" and way in ("fused", "none") else [],
        iteration_stride=stride,
    )


def constant(count: int, gap_s: float, new_tokens: int = 504) -> list[tuple[float, int, int]]:
    return [(number * gap_s, 8, new_tokens) for number in range(count)]


def poisson(count: int, mean_s: float, seed: int = 1) -> list[tuple[float, int, int]]:
    source = random.Random(seed)
    gaps = [0.0, *(source.expovariate(1 / mean_s) for _ in range(count - 1))]
    return [(at, 8, 504) for at in itertools.accumulate(gaps)]


def random_totals(count: int, gap_s: float, most: int) -> list[tuple[float, int, int]]:
    source = random.Random(1)
    return [(number * gap_s, 8, source.randint(128, most) - 8) for number in range(count)]


def chat(count: int, rate: float) -> list[tuple[float, int, int]]:
    source = random.Random(1)
    ats = itertools.accumulate([0.0, *(source.expovariate(rate) for _ in range(count - 1))])
    return [(at, source.randint(32, 512), source.randint(16, 256)) for at in ats]
