"""`python -m benchmarks.triton_own`: Triton's own instances and dynamic batching beside fused serving, once.

Each is given several settings and shown at its best one. Exit status: 0 done; 1 an error, or requests that failed, told
in words; 2 the command line is wrong; 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.new_folder import new_folder
from benchmarks.pa.errors import MeasurementFailed
from benchmarks.stops import ended_by_signals
from benchmarks.suite.layers import open_layer
from benchmarks.suite.load.calls import Mix
from benchmarks.suite.result import Run
from benchmarks.suite.workload import BenchRequest, Workload
from benchmarks.suite.workloads import prompt_ids
from benchmarks.through_triton.__main__ import check_length, numbers
from benchmarks.through_triton.bare import measure_bare
from benchmarks.through_triton.measure import vocab_size
from benchmarks.through_triton.record import write_record

PROGRAM = "benchmarks.triton_own"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    with ended_by_signals("triton_own"):
        app(arguments, prog_name=f"python -m {PROGRAM}")


@app.command()
def triton_own(
    *,
    model: Annotated[str, typer.Option(help="A shape of which --instances fit, a bundled model, or a directory.")] = (
        "gptj-6b"
    ),
    requests: Annotated[int, typer.Option(min=1, help="Of a workload.")] = 32,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")] = 8,
    new: Annotated[int, typer.Option(min=1, help="New tokens of each request.")] = 504,
    gaps: Annotated[str, typer.Option(help="Milliseconds between requests, several by commas; 0 is a burst.")] = "0,50",
    instances: Annotated[str, typer.Option(help="Counts of instance_group.")] = "1,4,8",
    delays: Annotated[str, typer.Option(help="Milliseconds of dynamic_batching's queue delay.")] = "0,50,500",
    batch_size: Annotated[int, typer.Option(min=1, help="Largest batch of dynamic_batching.")] = 32,
    out: Annotated[Path | None, typer.Option(help="New folder.", show_default="out/triton_own/TIME")] = None,
) -> None:
    """The same requests fused, on concurrent instances, and in dynamic batches, all through Triton.

    Fused ones are streamed, and once more answered in one response, as those of the other ways are.
    """
    check_length(model, prompt, new)
    vocabulary = vocab_size(model)
    works = [workload(requests, prompt, new, gap, vocabulary) for gap in numbers(gaps, "--gaps", least=0)]
    layers: list[tuple[str, dict[str, Any]]] = [("triton", {}), ("triton", {"mix": Mix(whole_share=1.0)})]
    layers += [("triton-instances", {"instances": count}) for count in numbers(instances, "--instances")]
    layers += [
        ("triton-dynamic", {"window_ms": float(delay), "batch_size": batch_size})
        for delay in numbers(delays, "--delays", least=0)
    ]
    folder = new_folder(out, "triton_own")
    started = time.monotonic()
    bare = measure_bare(model, [], _tell)
    runs: list[Run] = []
    for layer, settings in layers:
        with open_layer(layer, model, "auto", _tell, **settings) as opened:
            for work in works:
                runs.append(opened.run(work))
                _tell(f"{layer}, {work.name}: {runs[-1].wall_s:.3f} s")
                write_record(folder / "triton_own.json", PROGRAM, bare, started, runs=runs)
    text = markdown(runs)
    (folder / "triton_own.md").write_text(text)
    print(f"{text}\nsaved in {folder}")
    failed = [f"{run.layer} ({_words(run)}), {run.workload}: {_failed(run)}" for run in runs if _failed(run)]
    if failed:
        raise MeasurementFailed(f"requests failed: {'; '.join(failed)}")


def workload(count: int, prompt: int, new: int, gap_ms: int, vocabulary: int) -> Workload:
    """Equal requests, a constant gap apart."""
    ids = prompt_ids([prompt] * count, vocabulary, 1)
    made = tuple(BenchRequest(i * gap_ms / 1e3, one, new) for i, one in enumerate(ids))
    facts = {"num_requests": count, "gap_ms": gap_ms, "max_total": prompt + new, "seed": 1}
    return Workload(f"constant-{gap_ms}ms-{count}" if gap_ms else f"burst-{count}", "constant", made, facts)


def markdown(runs: list[Run]) -> str:
    """Each workload's ways, each at the setting with the least time; times over the fused one's."""
    lines = [
        "| workload | way | best setting | wall | of fused | mean latency | others |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(run.workload for run in runs):
        of_name = [run for run in runs if run.workload == name]
        fused = min(run.wall_s for run in of_name if run.layer == "triton")
        for layer in dict.fromkeys(run.layer for run in of_name):
            best, *others = sorted((run for run in of_name if run.layer == layer), key=_rank)
            failed = _failed(best)
            latency = sum(one.end - one.at for one in best.requests) / len(best.requests)
            cells = [
                name,
                f"{best.way}, {layer}",
                _words(best) + (f", {failed} FAILED" if failed else ""),
                f"{best.wall_s:.3f} s",
                f"{best.wall_s / fused:.2f} x",
                f"{latency:.3f} s",
                "; ".join(f"{_words(run)}: {run.wall_s:.3f} s" for run in others) or "–",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _failed(run: Run) -> int:
    return sum(bool(one.error) for one in run.requests)


def _rank(run: Run) -> tuple[int, float]:
    """A failed request counts for more than any time."""
    return _failed(run), run.wall_s


def _words(run: Run) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in run.settings.items()) or "defaults"


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
