"""`flover bench` and its sub-commands: parses and calls. Knows no measurement; imports late, to be quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class _BenchGroup(TyperGroup):
    """What names none of its commands is the suite's: `flover bench --requests 8`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["suite", *args]
        return super().parse_args(ctx, args)


bench_app = typer.Typer(
    cls=_BenchGroup,
    help="Measure: the suite of python -m benchmarks (no further command), two ratios on the CPU (ratios), the bare "
    "engine on a GPU (engine), or record a timeline (trace).",
)


@bench_app.command(
    "suite", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False
)
def bench_suite(context: typer.Context) -> None:
    """The same requests served in several ways; every flag of python -m benchmarks. What bare flover bench runs."""
    from flover_backend.clone import import_from_clone

    import_from_clone("benchmarks.__main__").main(context.args, "flover bench")


@bench_app.command("ratios")
def bench_ratios(
    model: Annotated[
        Path | None, typer.Option(help="Hugging Face directory.", show_default="SmolLM2-135M-Instruct, fetched")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, max=4096, help="Requests that are fused.")] = 16,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Prompt tokens of each.")] = 16,
    new_tokens: Annotated[int, typer.Option(min=1, help="New tokens of each.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the median counts.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch, on both sides.")] = None,
) -> None:
    """Measure the bare engine on the CPU: fused against one after another, and alone against transformers."""
    from flover_backend.engine.threads import set_thread_counts

    set_thread_counts()
    from flover_backend.bench import BenchOptions
    from flover_backend.bench import bench as run
    from flover_backend.importer.progress import console_progress
    from flover_backend.importer.smollm2 import fetch_smollm2

    with console_progress() as progress:
        directory = model or fetch_smollm2(progress=progress)
    run(BenchOptions(directory, requests, prompt_tokens, new_tokens, rounds, threads))


@bench_app.command("engine")
def bench_engine(
    models: Annotated[str, typer.Option(help="Shapes with random weights, separated by commas.")] = "13b,8b",
    only: Annotated[
        str,
        typer.Option(
            help="Parts, separated by commas: attention, reorder, load (with memory), first-token, decode, arrivals, "
            "prefill, join, moves, idle, defaults.",
            show_default="those that have a bar",
        ),
    ] = "",
    rows: Annotated[str, typer.Option(help="Rows of the decode iterations.", show_default="1,8,32,64,128,256")] = "",
    written: Annotated[
        bool, typer.Option("--written", help="load: write safetensors first and read them, instead of random weights.")
    ] = False,
    json: Annotated[Path, typer.Option(help="File for everything measured.")] = Path("out/bench-engine.json"),
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
) -> None:
    """Measure the bare engine on a GPU against what the GPU can do: each line with its bar, held or missed."""
    from flover_backend.bench_engine.run import EngineBenchOptions
    from flover_backend.bench_engine.run import bench_engine as run

    try:
        counts = tuple(int(count) for count in _parts(rows)) or None
    except ValueError:
        raise typer.BadParameter(f"--rows {rows!r}; allowed: numbers separated by commas") from None
    run(EngineBenchOptions(_parts(models), _parts(only), json, counts, device, written))


@bench_app.command("trace")
def bench_trace(
    model: Annotated[str, typer.Option(help="A shape (random weights), or a Hugging Face directory.")] = "13b",
    iterations: Annotated[int, typer.Option(min=1, max=1000, help="Decode iterations to record.")] = 4,
    rows: Annotated[int, typer.Option(min=1, max=4096, help="Rows that decode.")] = 32,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Prompt tokens of each.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    picture: Annotated[Path, typer.Option(help="PNG file for the timeline.")] = Path("out/trace.png"),
    chrome: Annotated[Path | None, typer.Option(help="File for the Chrome trace too.", show_default="none")] = None,
) -> None:
    """Record decode iterations and draw their timeline: the host's plan, run and commit, the GPU's kernels by kind."""
    from flover_backend.bench_engine.trace import TraceOptions
    from flover_backend.bench_engine.trace import trace as run

    run(TraceOptions(model, iterations, rows, prompt_tokens, device, picture, chrome))


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
