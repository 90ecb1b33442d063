"""`python -m benchmarks`, also `flover bench`: the same requests served in several ways, as tables, JSON and pictures.

Exit status: 0 done; 1 an error, told in words, or a run that failed; 2 the command line is wrong; 130 after
Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.new_folder import new_folder
from benchmarks.stops import ended_by_signals
from benchmarks.suite import flags
from flover_backend.engine.threads import set_thread_counts
from flover_backend.errors import ConfigError

if TYPE_CHECKING:
    from benchmarks.suite.flover_ini import FloverConfig
    from benchmarks.suite.result import Results
    from benchmarks.suite.session import Session
    from benchmarks.suite.workloads import Profile

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
CPU_TOTAL = 64
"""Tokens of a request of `--full` on a CPU, unless `--total` says otherwise."""
LEAST_MINUTES = 0.1
DEVICES, LOAD_FORMATS = ("auto", "cuda", "cpu"), ("auto", "random")
_COMMAND: list[str] = []


def main(arguments: list[str] | None = None, name: str = "python -m benchmarks") -> None:
    """Entry point."""
    given = sys.argv[1:] if arguments is None else arguments
    _COMMAND[:] = [*name.split(), *given]
    with ended_by_signals(name):
        app(given, prog_name=name)


@app.command()
def suite(
    context: typer.Context,
    files: Annotated[
        list[Path] | None, typer.Argument(help="Of --merge: results.json files, or their folders; later ones count.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A shape with random weights (13b, 8b, gptj-6b ...), a bundled model, or a Hugging Face directory.",
            show_default="13b; llama-demo on a CPU",
        ),
    ] = None,
    ways: Annotated[
        str, typer.Option(help="fused, none, serial, instances, dynamic, static; separated by commas.")
    ] = "fused,none,serial,instances,dynamic",
    layers: Annotated[
        str, typer.Option(help="engine, triton, pytriton, perf_analyzer; separated by commas.")
    ] = "engine",
    workloads: Annotated[
        str | None,
        typer.Option(help="burst, constant, poisson, random-totals, chat; separated by commas.", show_default="all"),
    ] = None,
    requests: Annotated[
        str | None, typer.Option(help="Numbers of requests, separated by commas.", show_default="1,8,32")
    ] = None,
    poisson: Annotated[
        str | None,
        typer.Option(help="Means of Poisson gaps on the paper's machine, in ms.", show_default="20,200,2000"),
    ] = None,
    rates: Annotated[
        str | None, typer.Option(help="Rates of the chat mix, requests a second.", show_default="the profile's")
    ] = None,
    total: Annotated[
        int | None,
        typer.Option(min=16, help="Tokens of a request with its prompt of 8.", show_default="512; 64 on a CPU"),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="What the paper's gaps are multiplied by.", show_default="lone request here over its own"),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Leave out what does not fit.", show_default="9.5; 1.25 on a CPU")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Every column of the papers' figures, however long.")] = False,
    flover_config: Annotated[
        Path | None, typer.Option(help="Flover's own configuration file: its model and its requests.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    load_format: Annotated[str, typer.Option(help="auto or random weights; a shape's are random.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="New folder.", show_default="out/bench/TIME")] = None,
    rerender: Annotated[
        Path | None, typer.Option(help="Make table and pictures again: a results.json, or its folder.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Make one folder of the runs of several FILES.")] = False,
) -> None:
    """Serve the workloads of the papers in each way, and leave results.json, table.md and pictures in a folder."""
    set_thread_counts()  # before torch is imported
    from benchmarks.suite.plan import LAYERS, WAYS, WORKLOADS, Asked
    from benchmarks.suite.progress import progress
    from benchmarks.suite.session import Session, Suite
    from benchmarks.suite.table import markdown
    from flover_backend.engine.sizing import resolve_device

    status = 0
    flags.finite(scale, "--scale")
    flags.one_of(device, "--device", DEVICES)
    flags.one_of(load_format, "--load-format", LOAD_FORMATS)
    flags.goes_alone(context, {"--rerender": ["rerender"], "--merge": ["merge", "files", "out"]})
    existing = _existing(files or [], merge, rerender, out)
    with progress() as tell:
        if existing is not None:
            results, folder = existing
        else:
            of_requests = {"workloads": workloads, "requests": requests, "poisson": poisson, "rates": rates}
            flover = _flover(flover_config, {"model": model, **of_requests, "total": total})
            on_cpu = resolve_device(device).type == "cpu"
            sizes = _sizes(on_cpu, full, total, requests, poisson, minutes)
            chosen = flags.names(ways, "--ways", WAYS)
            if flover:
                chosen, sizes = _ways_of(flover, chosen, tell), flover.sizes(sizes)
            kinds = WORKLOADS if workloads is None else flags.names(workloads, "--workloads", WORKLOADS)
            through = flags.names(layers, "--layers", LAYERS)
            _can_run(through, chosen)
            asked = Asked(sizes, chosen, through, flags.numbers(rates, "--rates"), kinds)
            command = shlex.join(_COMMAND)
            shown = model or ("llama-demo" if on_cpu else "13b")
            run = Suite(asked, shown, device, load_format, scale, flover, command, flover.keys if flover else {})
            folder = new_folder(out, "bench")
            session = Session(run, folder, tell)
            status, results = _measure(session, folder, tell), session.results
    if not results.runs and not results.failed:
        if existing is None:
            folder.rmdir()
        print(f"{folder}: no run came to its end; there is nothing to show")
        sys.exit(status)
    if results.runs:
        _render(folder, results if existing else None)
    print(markdown(results))
    print(f"results, table and pictures: {folder}")
    sys.exit(status)


def _measure(session: Session, folder: Path, tell: Callable[[str], None]) -> int:
    """The exit status. After an error the folder goes, if nothing was written to it."""
    try:
        session.run()
    except KeyboardInterrupt:
        tell("stopped: what was measured so far is kept")
        session.stopped()
        return 130
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise
    return int(bool(session.results.failed))


def _existing(files: list[Path], merges: bool, rerender: Path | None, out: Path | None) -> tuple[Results, Path] | None:
    """Results that are there already, and their folder; None where some are to be measured."""
    from benchmarks.suite.merge import merge
    from benchmarks.suite.session import read_results, write_results

    if bool(files) != merges or (merges and rerender is not None):
        raise typer.BadParameter("--merge A.json B.json --out DIR takes files, and nothing else does")
    if rerender is not None:
        return read_results(rerender), rerender.parent if rerender.is_file() else rerender
    if not merges:
        return None
    results, folder = merge([read_results(file) for file in files]), new_folder(out, "bench")
    write_results(results, folder)
    return results, folder


def _render(folder: Path, read: Results | None) -> None:
    """Table and pictures of `read`, or else of the folder's results, into the folder."""
    from benchmarks.suite.plots import draw, left_out
    from benchmarks.suite.session import read_results
    from benchmarks.suite.table import write_table

    results = read or read_results(folder)
    write_table(results, folder)
    draw(results, folder)
    for line in left_out(results):
        print(line)


def _sizes(
    on_cpu: bool, full: bool, total: int | None, requests: str | None, poisson: str | None, minutes: float | None
) -> Profile:
    """The profile with what the flags change."""
    import msgspec

    from benchmarks.suite.workloads import profile

    sizes = profile("full" if full else "cpu" if on_cpu else "paper")
    if total or (full and on_cpu):
        sizes = sizes.shortened(total or CPU_TOTAL)
    changes: dict[str, object] = {}
    if requests is not None:
        changes["requests"] = flags.counts(requests, "--requests")
    if poisson is not None:
        changes["poisson_ms"] = flags.numbers(poisson, "--poisson")
    flags.finite(minutes, "--minutes", LEAST_MINUTES)
    if minutes is not None:
        changes["budget_s"] = 60 * minutes
    return msgspec.structs.replace(sizes, **changes)


def _flover(path: Path | None, beside: dict[str, object]) -> FloverConfig | None:
    """Flover's own file. Raises `ConfigError` for flags that it leaves nothing to say."""
    from benchmarks.suite.flover_ini import read_flover_config

    if path is None:
        return None
    config = read_flover_config(path)
    given = [f"--{name}" for name, value in beside.items() if value is not None]
    if given:
        raise ConfigError(f"--flover-config says the model and the requests itself; give no {', no '.join(given)}")
    return config


def _ways_of(flover: FloverConfig, ways: tuple[str, ...], tell: Callable[[str], None]) -> tuple[str, ...]:
    """Those of `ways` that its requests are for; what of the file is not used is told."""
    for line in flover.ignored:
        tell(f"{flover.path.name}: {line}")
    if "none" in flover.ways or "none" not in ways:
        return ways
    tell(f"{flover.path.name}: way none is left out: lengths are equal, there is nothing to reorder")
    return tuple(way for way in ways if way != "none")


def _can_run(layers: tuple[str, ...], ways: tuple[str, ...]) -> None:
    """Raises `ConfigError` where no way is left, `BadParameter` where a layer would serve no way that was asked for."""
    servers = [layer for layer in layers if layer != "engine"]
    if not ways:
        raise ConfigError(
            "--ways none; Flover's file has equal lengths, nothing to reorder: give fused, or another way"
        )
    if servers and "fused" not in ways:
        raise typer.BadParameter(
            f"--layers {','.join(servers)} --ways {','.join(ways)}; allowed: servers serve fused alone: "
            "add it to --ways, or give --layers engine"
        )


if __name__ == "__main__":
    main()
