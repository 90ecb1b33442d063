"""What the engine must reach on an NVIDIA H200, and reference measurements of vLLM 0.26, made apart on the same type.

The references were made together with the products' times of LLaMA-13B at the same rows; they are scaled by this run's
times of the same products, and quoted as such.
"""

from __future__ import annotations

from flover_backend.bench_engine.figures import Bar, Spread

DECODE = {
    "13b": {rows: Bar(1.08 if rows <= 32 else 1.10, "S") for rows in (1, 8, 32, 64, 128, 256)},
    "8b": {rows: Bar(1.12, "S") for rows in (1, 8, 32, 64, 128, 256)},
    "gptj-6b": {rows: Bar(1.12, "S") for rows in (1, 8, 32, 64, 128, 256)},
}
"""Time of a decode iteration over S, by model and rows. S: the products in one graph, and live KV over bandwidth."""
ARRIVALS = {"poisson 20 ms": Bar(4.70, "s"), "poisson 100 ms": Bar(4.50, "s"), "64 at once": Bar(4.6, "s")}
FIRST_TOKEN = Bar(20.0, "ms")
ATTENTION = Bar(0.85, "of copy", at_least=True)
PREFILL_RATE = Bar(0.60, "of dense", at_least=True)
PREFILL_MIXED = Bar(1.05, "x equal")
JOIN_GAP = Bar(2.5, "x")
JOIN_FIRST = Bar(0.3, "s")
REORDER_ROWS = Bar(50.0, "us")
COMPACT_BANDWIDTH = Bar(0.85, "of copy", at_least=True)
COMPACT = Bar(0.5, "ms")
DEFAULTS = Bar(0.95, "of best", at_least=True)
LOAD = {"warm": Bar(20.0, "s"), "cold": Bar(60.0, "s")}
MEMORY = Bar(2.0, "GiB")
IDLE = Bar(2.0, "%")

PRODUCTS_THEN_MS = {1: 6.78, 8: 6.87, 32: 7.02, 64: 7.22, 128: 8.00, 256: 11.73}
"""LLaMA-13B, with vLLM's measurement."""
VLLM_DECODE_MS = {
    "13b": {1: 7.84, 8: 8.63, 32: 10.29, 64: 12.75, 128: 17.98, 256: 31.67},
    "8b": {1: 4.90, 32: 5.46, 256: 11.0},
}
VLLM_ARRIVALS_S = {"poisson 20 ms": 5.67, "poisson 100 ms": 8.18, "64 at once": 5.20}
"""Whole runs; the last requests arrive at 0.513, 3.269 and 0 s."""


def scale_to_now(rows: int, products_13b: dict[int, Spread]) -> float | None:
    """This run's products of LLaMA-13B over those beside vLLM's figures; None where they were not measured."""
    if rows not in products_13b or rows not in PRODUCTS_THEN_MS:
        return None
    return products_13b[rows].median * 1e3 / PRODUCTS_THEN_MS[rows]
