"""What must be reached through Triton on an NVIDIA H200, and vllm_backend's figures, made apart on the same GPU type.

Bursts of 8-token prompts with 504 new ones; LLaMA-13B's chat mix. vllm_backend: Triton 24.10 with its vLLM. Its times
are to be scaled by this run's weight products over those of then (bench_engine/bars.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from flover_backend.bench_engine.bars import PRODUCTS_THEN_MS


@dataclass(frozen=True, slots=True)
class Marks:
    """Limits, or what was measured; None: no such figure. Times but `wall_s` are milliseconds."""

    share: float | None = None
    """Of the bare engine's tokens/s: at least."""
    wall_s: float | None = None
    """At most, as the others."""
    first_p50: float | None = None
    first_p99: float | None = None
    gap_p99: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """Of the table: what must be reached, and what vllm_backend reached."""

    bar: Marks
    vllm: Marks = Marks()
    rows: int = 32
    """Whose weight products scale vllm_backend's times."""


BURSTS = {
    ("13b", 1): Line(Marks(share=0.99, first_p50=12), Marks(share=1.0, first_p50=20), 1),
    ("13b", 32): Line(Marks(0.99, 4.85, 25, None, 12), Marks(0.995, 5.295, 49, None, 16), 32),
    ("13b", 256): Line(Marks(0.97, 14.2, 120, None, 40), Marks(0.72, 23.2, 280, None, 122), 256),
    ("8b", 32): Line(Marks(0.98, 2.75, 20, None, 8), Marks(0.81, 3.394, 46, None, 18), 32),
    ("8b", 256): Line(Marks(0.95, 5.6, 80, None, 30), Marks(0.32, 17.427, 535, 3400, 421), 256),
    ("8b", 1024): Line(Marks(share=0.90)),
}
"""By model and streams."""
CHAT = {"13b": Line(Marks(None, None, 30, 60, 25), Marks(None, None, 54, 100, 33))}
PYTRITON = {("13b", 32): Line(Marks(share=0.90))}
WORKLOAD = (8, 504)
"""Prompt and new tokens of the bursts that bars are for."""


def scale_to_now(rows: int, products_13b_ms: dict[int, float]) -> float | None:
    """This run's weight products of LLaMA-13B over those of then; None where either is missing."""
    if rows not in products_13b_ms or rows not in PRODUCTS_THEN_MS:
        return None
    return products_13b_ms[rows] / PRODUCTS_THEN_MS[rows]
