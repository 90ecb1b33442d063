"""Results as Markdown: the papers' tables, their figures beside ours, and the bars that LLaMA-13B is held against.

Pure; the quantities are those of `figures.py`. A cell without a run is a dash.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.suite import figures
from benchmarks.suite.bars import PROMPT, TOTAL, bars
from benchmarks.suite.figures import Limits
from benchmarks.suite.result import Results, Run
from benchmarks.suite.workloads import Paper, data
from flover_backend.bench_engine.figures import percentile
from flover_backend.bench_engine.machine import in_words

TABLE = "table.md"
Rows = list[list[str]]
MIN_TOTAL, GAP_MS, MOST = 128, 500.0, 32
"""Of the papers' requests: the least tokens of random totals, the gap, how many in the Poisson sweep and with random
totals."""
OVER_LONE, OVER_BOUND = "mean latency over a lone one", "the same of S"


def write_table(results: Results, folder: Path) -> Path:
    """`table.md` in `folder`."""
    path = folder / TABLE
    path.write_text(markdown(results))
    return path


def markdown(results: Results) -> str:
    """Every table that has runs."""
    lines = [f"# {', '.join(dict.fromkeys(run.model for run in results.runs)) or 'No runs'}", "", *_head(results), ""]
    groups = dict.fromkeys((run.layer, run.model) for run in results.runs)
    for layer, model in groups:
        runs = [run for run in results.runs if (run.layer, run.model) == (layer, model)]
        for title, make in TABLES:
            rows = make(runs, results, data().papers.get(model))
            if rows:
                lines += [f"## {title}{'' if layer == 'engine' else f', through {layer}'}", "", *_table(rows), ""]
    held = bars(results)
    if held:
        lines += ["## Bars of LLaMA-13B", "", *_table([["what", "bar", "figure", ""], *held]), ""]
    if results.failed:
        lines += ["## Failed", "", *(f"- {line}" for line in results.failed), ""]
    return "\n".join(lines)


def _head(results: Results) -> list[str]:
    """Commands, the machine, and what a lone request took by layer, where that was measured."""
    commands = dict.fromkeys((run.command, run.commit) for run in results.runs if run.command)
    told = [f"`{command}`" + (f" (commit {commit})" if len(commands) > 1 else "") for command, commit in commands]
    facts = [f"{in_words(results.machine)}", f"Copy bandwidth {results.copy_bandwidth / 1e12:.3f} TB/s"]
    lone = {layer: [run.single_s for run in results.runs if run.layer == layer and run.single_s]
            for layer in ("engine", *dict.fromkeys(run.layer for run in results.runs))}  # fmt: skip
    if not lone["engine"] and results.single_s:
        lone["engine"] = [results.single_s]
    words = [_span(times, 3) + " s" + ("" if layer == "engine" else f" through {layer}")
             for layer, times in lone.items() if times]  # fmt: skip
    facts += [f"A lone request: {', '.join(words)}"] if words else []
    scales = [run.scale for run in results.runs if run.scale]
    facts += [f"The papers' gaps are multiplied by {_span(scales, 4)}"] if scales else []
    if not results.machine.get("gpu"):
        facts.append("On a CPU S is a rough guide: times of the products, of which it is made, differ from run to run")
    facts += [f"{results.seconds:.0f} s in all"] if results.seconds else []
    return ["  \n".join(told or [f"`{results.command}`"]), "", f"{'. '.join(facts)}."]


def _span(values: Sequence[float], digits: int) -> str:
    """The least and the greatest, where they differ in what is shown."""
    return " to ".join(dict.fromkeys(f"{value:.{digits}f}" for value in (min(values), max(values))))


def _by_requests(runs: Sequence[Run], results: Results, paper: Paper | None) -> Rows:
    fused = _of(runs, "constant", "fused", lambda run: run.facts.get("paper_gap_ms", 0) > 0)
    rows = [
        [
            _n(run), _gap(run) if len(run.requests) > 1 else "–", _s(run.wall_s),
            *_against(runs, run, "instances"),
            *_papers(paper, "speed_up", run, run.facts["paper_gap_ms"] == GAP_MS, len(run.requests)),
            _ratio(figures.mean_latency_over_single(run)), _ratio(figures.bound_over_single(run, results)),
        ]
        for run in sorted(fused, key=lambda run: len(run.requests))
    ]  # fmt: skip
    head = ["requests", "gap", "fused", "instances", "speed-up", *_named(paper), OVER_LONE, OVER_BOUND]
    return _beside(paper, [head, *rows]) if rows else []


def _bursts(runs: Sequence[Run], results: Results, paper: Paper | None) -> Rows:
    at_once = [run for run in runs if run.kind == "constant" and not run.facts.get("paper_gap_ms")]
    rows = []
    for run in sorted(at_once, key=lambda run: (len(run.requests), run.way != "fused", run.wall_s)):
        fused = figures.twin(runs, run, "fused")
        over = None if fused is None or run.way == "fused" else figures.speed_up(fused, run)
        settings = _settings(run)
        latency, bound = figures.mean_latency_over_single(run), figures.bound_over_single(run, results)
        rows.append(
            [_n(run), f"{run.way}{f' ({settings})' if settings else ''}", _s(run.wall_s),
             f"{figures.tokens_per_s(run):,.0f}", _x(over), _ratio(latency),
             _ratio(bound if run.way == "fused" else None)]
        )  # fmt: skip
    head = ["requests at once", "way", "overall", "tokens/s", "fused is faster by", OVER_LONE, OVER_BOUND]  # fmt: skip
    return [head, *rows] if rows else []


def _poisson(runs: Sequence[Run], results: Results, paper: Paper | None) -> Rows:
    its = data().papers["gptj-6b"] if paper else None
    rows = [
        [
            _gap(run), _s(run.wall_s),
            f"{figures.overlap(run) * 100:.1f} %", *_against(runs, run, "instances"),
            *_papers(its, "poisson_speed_up", run, len(run.requests) == MOST, round(run.facts["paper_gap_ms"])),
            _ratio(figures.mean_latency_over_single(run)),
        ]
        for run in sorted(_of(runs, "poisson", "fused"), key=lambda run: float(run.facts["paper_gap_ms"]))
    ]  # fmt: skip
    head = ["mean gap", "fused", "overlap", "instances", "speed-up", *_named(its), OVER_LONE]
    return _beside(its, [head, *rows]) if rows else []


def _reorder(runs: Sequence[Run], results: Results, paper: Paper | None) -> Rows:
    its = paper if paper is None or paper.reorder_gain else data().papers["13b"]
    rows = [
        [
            str(run.facts["max_total"]),
            *_against(runs, run, "none", reverse=True),
            *_papers(
                its,
                "reorder_gain",
                run,
                (len(run.requests), run.facts["paper_gap_ms"]) == (MOST, GAP_MS),
                run.facts["max_total"],
            ),
        ]
        for run in sorted(_of(runs, "random-totals", "fused"), key=lambda run: int(run.facts["max_total"]))
    ]
    head = ["most tokens", "no reordering", "reordering", "gain", *_named(its)]
    return _beside(its, [head, *rows]) if rows else []


def _batches(runs: Sequence[Run], results: Results, paper: Paper | None) -> Rows:
    """Ways that the tables above do not show, where requests do not come at once."""
    rows = []
    for run in runs:
        spaced = run.kind != "constant" or run.facts.get("paper_gap_ms")
        more = ("instances",) if run.kind == "random-totals" else ()
        if run.way in ("serial", "dynamic", "static", *more) and spaced:
            fused = figures.twin(runs, run, "fused")
            over = None if fused is None else figures.speed_up(fused, run)
            rows.append([run.workload, f"{run.way} {_settings(run)}".strip(), _s(run.wall_s), _x(over)])
    return [["workload", "way", "overall", "fused is faster by"], *rows] if rows else []


def _chat(runs: Sequence[Run], results: Results, paper: Paper | None) -> Rows:
    rows = []
    for run in sorted(_of(runs, "chat"), key=lambda run: (run.way, float(run.facts["rate"]))):
        first = [seconds * 1e3 for seconds in figures.first_tokens(run)]
        served, came = figures.goodput(run, Limits()), f"{run.facts['rate']:g}/s ({figures.rate(run):.1f}/s)"
        rows.append(
            [came, _n(run), run.way, f"{statistics.median(first):.1f} ms" if first else "–",
             f"{percentile(first, 0.99):.1f} ms" if first else "–", _ms(run.gaps_ms.get("p99")),
             f"{figures.tokens_per_s(run):,.0f}", f"{served.requests_per_s:.2f}/s ({served.share * 100:.0f} %)"]
        )  # fmt: skip
    head = ["rate (as drawn)", "requests", "way", "first token p50", "p99", "gap p99", "tokens/s",
            "goodput"]  # fmt: skip
    return [head, *rows] if rows else []


TABLES: tuple[tuple[str, Callable[[Sequence[Run], Results, Paper | None], Rows]], ...] = (
    ("Overall time by number of requests", _by_requests),
    ("Bursts", _bursts),
    ("Poisson arrivals", _poisson),
    ("Reordering, random totals", _reorder),
    ("Other ways, requests that come apart", _batches),
    (
        f"Chat mix; goodput: first token in {Limits().first_token_s * 1e3:.0f} ms, gap p99 in {Limits().gap_ms:.0f} ms",
        _chat,
    ),
)


def _of(runs: Sequence[Run], kind: str, way: str = "", only: Callable[[Run], bool] = lambda run: True) -> list[Run]:
    return [run for run in runs if run.kind == kind and way in ("", run.way) and only(run)]


def _against(runs: Sequence[Run], run: Run, way: str, reverse: bool = False) -> list[str]:
    """[the other way's time, ratio]; reversed: [the other way's time, this one's, ratio]."""
    other = figures.twin(runs, run, way)
    ratio = _x(None if other is None else figures.speed_up(run, other))
    return [_s(other.wall_s if other else None), *([_s(run.wall_s)] if reverse else []), ratio]


def _named(paper: Paper | None) -> list[str]:
    """The heading of the paper's column, which is there for models that the paper measured alone."""
    return [f"paper, {paper.title}"] if paper else []


def _papers(paper: Paper | None, ratio: str, run: Run, alike: bool, key: int) -> list[str]:
    """Its cell: a dash where the paper's requests were others, too."""
    if paper is None:
        return []
    lengths = ("min_total", MIN_TOTAL) if ratio == "reorder_gain" else ("max_total", TOTAL)
    asked = {"prompt": PROMPT, "per_batch_size": 1, **run.facts}
    alike = alike and (asked["prompt"], asked["per_batch_size"], asked.get(lengths[0])) == (PROMPT, 1, lengths[1])
    return [_x(getattr(paper, ratio).get(key) if alike else None, 2 if ratio == "reorder_gain" else 1)]


def _beside(paper: Paper | None, rows: Rows) -> Rows:
    """Without the paper's column where none of its requests were the paper's."""
    if paper is None:
        return rows
    place = rows[0].index(_named(paper)[0])
    if any(row[place] != "–" for row in rows[1:]):
        return rows
    return [[*row[:place], *row[place + 1 :]] for row in rows]


def _table(rows: Rows) -> list[str]:
    head, *body = rows
    return [_line(head), _line(["---"] * len(head)), *map(_line, body)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _gap(run: Run) -> str:
    """In the paper, and here."""
    return f"{run.facts['paper_gap_ms']:g} ms -> {run.facts['gap_ms']:.1f} ms"


def _settings(run: Run) -> str:
    """What was chosen: `host_share` was measured."""
    numbers = {key: value for key, value in run.settings.items() if isinstance(value, int | float)}
    return ", ".join(f"{key} {value:.4g}" for key, value in numbers.items() if key != "host_share")


def _n(run: Run) -> str:
    lost = len(run.requests) - len(figures.answered(run))
    cut = run.facts.get("prompts_cut", 0)
    facts = [f"{lost} failed"] * bool(lost) + [f"{cut} prompts cut"] * bool(cut)
    return f"{len(run.requests)}" + (f" ({', '.join(facts)})" if facts else "")


def _s(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.3f} s"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"


def _x(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f} x"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
