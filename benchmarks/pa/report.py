"""Figures as a table on the terminal, as Markdown, and as JSON. Pure but for the one function that writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.pa.export import Request
from benchmarks.pa.figures import Figures, Spread, in_flight

HEAD = ("", "mean", "p50", "p90", "p99", "worst")


@dataclass(frozen=True)
class Result:
    """One experiment of a run."""

    label: str
    words: str
    """What was asked of perf_analyzer."""
    figures: Figures
    requests: Sequence[Request]


def rows(figures: Figures) -> list[tuple[str, ...]]:
    """Name, mean, p50, p90, p99, worst. Of a rate, p90 is what 90 % of the requests reach."""
    times = {
        "time to first token, ms": figures.first_token,
        "inter-token latency, ms": figures.inter_token,
        "gap between responses, ms": figures.response_gap,
        "time per output token, ms": figures.per_output_token,
        "request latency, ms": figures.latency,
    }
    return [
        *(_row(name, _times(spread)) for name, spread in times.items()),
        _row("tokens/s of a request", _reached(figures.request_tokens_per_s)),
    ]


def _times(spread: Spread | None) -> tuple[float, ...] | None:
    if spread is None:
        return None
    return tuple(1e3 * value for value in (spread.mean, spread.p50, spread.p90, spread.p99, spread.most))


def _reached(rate: Spread | None) -> tuple[float, ...] | None:
    return None if rate is None else (rate.mean, rate.p50, rate.p10, rate.p1, rate.least)


def _row(name: str, values: tuple[float, ...] | None) -> tuple[str, ...]:
    return (name, *([number(value) for value in values] if values else ["-"] * (len(HEAD) - 1)))


def number(value: float) -> str:
    """With about three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def sentences(figures: Figures) -> list[str]:
    """Totals, and whatever a reader must know before believing the table."""
    f = figures
    prompts = "" if f.num_prompt_tokens is None else f"; prompts of {f.num_prompt_tokens} tokens"
    said = [
        f"{f.num_requests} requests, {f.num_tokens} tokens in {f.seconds:.2f} s: "
        f"{number(f.tokens_per_s)} tokens/s, {number(f.requests_per_s)} requests/s{prompts}",
        f"in flight: at most {f.most_in_flight}, {f.mean_in_flight:.1f} over time",
        f"{f.num_responses} responses, {f.num_coalesced} of them with more than one token",
    ]
    if f.num_short:
        asked = "" if f.num_asked_tokens is None else f": {f.num_tokens} of {f.num_asked_tokens} tokens asked for"
        said.append(f"{f.num_short} requests ended before their max_tokens{asked}")
    if f.num_empty_finals:
        said.append(f"{f.num_empty_finals} empty last responses were left out of every figure")
    return said


def table(result: Result) -> Table:
    """For a terminal."""
    made = Table(title=result.words, title_justify="left")
    for column in HEAD:
        made.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    for row in rows(result.figures):
        made.add_row(*row)
    return made


def markdown(results: Sequence[Result], command: str) -> str:
    """One line a result, then a table for each."""
    head = ("run", "requests", "tokens/s", "first token p50 / p99", "inter-token p50 / p99", "latency p50", "in flight")
    lines = ["# perf_analyzer", "", f"    {command}", "", *_lines([head, *(_summary(result) for result in results)])]
    for result in results:
        lines += ["", f"## {result.words}", "", *(f"- {line}" for line in sentences(result.figures)), ""]
        lines += _lines([HEAD, *rows(result.figures)])
    return "\n".join([*lines, ""])


def _summary(result: Result) -> tuple[str, ...]:
    f = result.figures
    return (
        result.words,
        str(f.num_requests),
        number(f.tokens_per_s),
        _pair(f.first_token),
        _pair(f.inter_token),
        "-" if f.latency is None else f"{number(1e3 * f.latency.p50)} ms",
        str(f.most_in_flight),
    )


def _pair(spread: Spread | None) -> str:
    return "-" if spread is None else f"{number(1e3 * spread.p50)} / {number(1e3 * spread.p99)} ms"


def _lines(cells: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(cells[0]) - 1)]
    return [f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:])]


def plain(result: Result) -> dict[str, Any]:
    """For JSON. Times in seconds; those of the series count from the first request's sending."""
    start = min(request.sent for request in result.requests)
    return {
        "label": result.label,
        "what": result.words,
        "figures": asdict(result.figures),
        "in_flight": in_flight(result.requests),
        "requests": [
            {
                "sent": (request.sent - start) / 1e9,
                "first_token": (int(request.times[0]) - start) / 1e9 if len(request.times) else None,
                "ended": (request.ended - start) / 1e9,
                "prompt_tokens": request.prompt_tokens,
                "tokens": request.num_tokens,
            }
            for request in result.requests
        ],
    }


def write_reports(folder: Path, results: Sequence[Result], facts: dict[str, Any]) -> None:
    """figures.md and figures.json in `folder`, which exists. `facts`: what else to note, with the "command"."""
    (folder / "figures.md").write_text(markdown(results, facts["command"]))
    document = {**facts, "results": [plain(result) for result in results]}
    (folder / "figures.json").write_text(json.dumps(document, indent=1) + "\n")
