"""The measured lines beside their bars and vllm_backend's figures, as Markdown. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.through_triton.bars import BURSTS, CHAT, PYTRITON, WORKLOAD, Line, Marks, scale_to_now
from benchmarks.through_triton.measure import Asked, Measured

HEAD = (
    "what", "bare engine", "through Triton", "of the engine", "first token p50", "first p99", "gap p99",
    "together", "vllm_backend, scaled", "bars",
)  # fmt: skip
NOT_MEASURED = "not measured"
NO_LINE = Line(Marks())


def line_of(one: Measured, asked: Asked) -> Line:
    """Its bars; none for another workload than theirs."""
    key = (one.model, one.streams)
    if one.part.startswith("chat"):
        its = (asked.chat_requests, asked.chat_rate, asked.chat_prompts, asked.chat_outputs)
        return CHAT.get(one.model, NO_LINE) if its == (300, 20.0, (32, 512), (16, 256)) else NO_LINE
    if (asked.prompt, asked.new) != WORKLOAD:
        return NO_LINE
    return (PYTRITON if one.part == "pytriton" else BURSTS).get(key, NO_LINE)


def misses(one: Measured, bar: Marks) -> list[str]:
    """The names of the bars that it does not hold."""
    if not one.seen:
        return [NOT_MEASURED]
    found = []
    if any(seen.num_short for seen in one.seen):
        found.append("every token")
    if bar.share is not None and (one.share is None or one.share < bar.share):
        found.append("of the engine")
    for name in ("wall_s", "first_p50", "first_p99", "gap_p99"):
        limit = getattr(bar, name)
        if limit is not None and not one.median(name) <= limit:
            found.append(name.replace("_s", "").replace("_", " "))
    return found


def markdown(measured: Sequence[Measured], asked: Asked, products_13b_ms: dict[int, float]) -> str:
    """Medians of the repeats; bars in parentheses."""
    rows = [HEAD, tuple("---" for _ in HEAD)]
    rows += [_row(one, line_of(one, asked), products_13b_ms) for one in measured]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(one: Measured, line: Line, products: dict[int, float]) -> tuple[str, ...]:
    if not one.seen:
        return one.title, *("–" for _ in HEAD[2:]), f"missed: {NOT_MEASURED}"
    bar, tokens = line.bar, one.median("tokens_per_s")
    bare = "–"
    if one.bare:
        wall = statistics.median(run.wall_s for run in one.bare)
        bare = f"{wall:.3f} s, {one.bare[0].tokens / wall:,.0f} tokens/s"
    missed = misses(one, bar)
    has_bar = bar != Marks()
    return (
        one.title,
        bare,
        _with_bar(f"{one.median('wall_s'):.3f} s", bar.wall_s, " s") + f", {tokens:,.0f} tokens/s",
        "–" if one.share is None else _with_bar(f"{one.share:.1%}", bar.share and bar.share * 100, " %", least=True),
        _with_bar(f"{one.median('first_p50'):.1f} ms", bar.first_p50, " ms"),
        _with_bar(f"{one.median('first_p99'):.1f} ms", bar.first_p99, " ms"),
        _with_bar(f"{one.median('gap_p99'):.2f} ms", bar.gap_p99, " ms"),
        f"{one.median('together'):.1%}",
        _vllm(line, products),
        ("missed: " + ", ".join(missed)) if missed else ("held" if has_bar else "none"),
    )


def _with_bar(figure: str, limit: float | None, unit: str, least: bool = False) -> str:
    return figure if limit is None else f"{figure} ({'≥' if least else '≤'} {limit:g}{unit})"


def _vllm(line: Line, products: dict[int, float]) -> str:
    """Its times scaled to this run's GPU; its share of its own engine as it was."""
    its, scale = line.vllm, scale_to_now(line.rows, products)
    if its == Marks() or scale is None:
        return "–"
    parts = []
    if its.share is not None:
        parts.append(f"{its.share:.1%} of vLLM")
    if its.wall_s is not None:
        parts.append(f"{its.wall_s * scale:.3f} s")
    for name, words in (("first_p50", "first"), ("first_p99", "first p99"), ("gap_p99", "gap p99")):
        value = getattr(its, name)
        if value is not None:
            parts.append(f"{words} {value * scale:.0f} ms")
    return ", ".join(parts)
