"""`python -m benchmarks.perf_analyzer`: perf_analyzer on a live server, and its export as a table, JSON and pictures.

Exit status: 0 done; 1 an error, told in words; 2 the command line is wrong; 130 interrupted.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.new_folder import new_folder
from benchmarks.pa.errors import MeasurementFailed
from benchmarks.pa.inputs import Prompts, parse_lengths
from benchmarks.pa.loads import LoadFlags, make_loads
from benchmarks.pa.modes import Extent, Mode
from benchmarks.pa.report import write_reports
from benchmarks.pa.run import Target, without_secrets
from benchmarks.pa.session import Plan, Requests, measure, read_results, show
from flover_backend.cli_exit import exit_status
from flover_backend.cli_options import flag_of, model_json, with_model_json_flags
from flover_backend.server import ServerOptions
from flover_backend.server_files import changed_keys

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
_GIVEN: list[str] = []


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Everything after `--` goes to perf_analyzer as it is."""
    given = sys.argv[1:] if arguments is None else arguments
    _GIVEN[:] = given
    own, _ = _split(given)
    with exit_status("perf_analyzer"):
        app(own, prog_name="python -m benchmarks.perf_analyzer")


@app.command()
@with_model_json_flags
def perf_analyzer(
    *,
    mode: Annotated[Mode, typer.Argument(help="How requests are sent; all: each of the others in turn.")] = (
        Mode.CONCURRENCY
    ),
    concurrency: Annotated[str, typer.Option(help="Requests in flight; several as 1,8,32.")] = "8",
    rate: Annotated[str, typer.Option(help="Requests a second; several as 2,4.")] = "8",
    intervals: Annotated[
        Path | None,
        typer.Option(help="Gaps in microseconds, one a line; else Poisson gaps of --rate by --seed."),
    ] = None,
    periodic: Annotated[
        str, typer.Option(help="START:END:STEP: START requests, STEP more each --request-period, END in all.")
    ] = "4:32:4",
    request_period: Annotated[
        int, typer.Option(help="Responses that the newest requests must have before more are sent.")
    ] = 10,
    requests: Annotated[int, typer.Option(help="Requests of a run.")] = 64,
    seconds: Annotated[
        float | None, typer.Option(help="Run so long instead; requests cut by a window's end do not count.")
    ] = None,
    prompt_tokens: Annotated[str, typer.Option(help="Length of each prompt, or LOW:HIGH for uniform ones.")] = "8",
    output_tokens: Annotated[str, typer.Option(help="Length of each answer, or LOW:HIGH.")] = "32",
    prompt_file: Annotated[
        Path | None, typer.Option(help="Prompts of text, one a line, in place of random token ids.")
    ] = None,
    vocab_size: Annotated[int, typer.Option(min=4, help="Random token ids are below it.")] = 1000,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Prompts, lengths, gaps and sampling follow from it.")] = 1,
    url: Annotated[
        str | None, typer.Option(help="gRPC address of a server.", show_default="a server of its own")
    ] = None,
    name: Annotated[str, typer.Option(help="Triton's name of the model.")] = "flover",
    header: Annotated[
        list[str] | None, typer.Option(help="With --url: NAME:VALUE, sent with every call; may be given again.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="For its own server, as in flover serve.", show_default="llama-demo")
    ] = None,
    instances: Annotated[
        int | None, typer.Option(min=1, max=64, help="Fronts of its own server.", show_default="4 on a GPU, 1 on a CPU")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder for what comes out.", show_default="out/perf_analyzer/TIME")
    ] = None,
    read: Annotated[Path | None, typer.Option(help="Run nothing; read this export of perf_analyzer.")] = None,
    limit: Annotated[float, typer.Option(help="End a run after so many seconds.")] = 900.0,
    binary: Annotated[
        Path | None, typer.Option("--perf-analyzer", help="Another binary.", show_default="tritonclient's")
    ] = None,
    **keys: Any,
) -> None:
    """Run perf_analyzer on a live server, and show what its requests saw.

    Whatever follows -- is handed to perf_analyzer. Without --url a server is started, with the flags of flover serve.
    """
    command = without_secrets(["python", "-m", "benchmarks.perf_analyzer", *_GIVEN])
    console = Console()
    folder = new_folder(out, "perf_analyzer")
    if read is not None:
        results = read_results(read, read.stem, str(read), folder)
        for result in results:
            show(result, console)
        write_reports(folder, results, {"command": command})
    else:
        flags = LoadFlags(concurrency, rate, intervals, periodic, request_period, Extent(requests, seconds), seed)
        prompts = Prompts(parse_lengths(prompt_tokens, "--prompt-tokens"), vocab_size, _texts(prompt_file))
        asked = Requests(prompts, parse_lengths(output_tokens, "--output-tokens"), temperature, seed)
        where = _where(url, name, header or [], model, instances, keys)
        plan = Plan(make_loads(mode, flags, folder), asked, folder, limit, _split(_GIVEN)[1], binary)
        measure(plan, where, console, {"command": command, "client": _this_machine()})
    console.print(f"\nfigures and pictures: {folder}", soft_wrap=True, highlight=False)


def _split(given: list[str]) -> tuple[list[str], list[str]]:
    """Before and after the first `--`."""
    own = given[: given.index("--")] if "--" in given else given
    return own, given[len(own) + 1 :]


def _texts(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        lines = [line for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise MeasurementFailed(f"--prompt-file is {file}: {error}") from None
    if not lines:
        raise MeasurementFailed(f"--prompt-file is {file}, which holds no line of text")
    return lines


def _where(
    url: str | None, name: str, headers: list[str], model: str | None, instances: int | None, keys: dict[str, Any]
) -> Target | ServerOptions:
    config = model_json({"model": None if model is None else _model(model), **keys})
    malformed = sum(":" not in header for header in headers)
    if malformed or (headers and url is None):
        raise MeasurementFailed(
            "--header is NAME:VALUE, for a server that --url names"
            + (f"; {malformed} of {len(headers)} have no colon" if malformed else "")
        )
    if url is None:
        return ServerOptions(config, name, instances, show=functools.partial(print, file=sys.stderr))
    given = sorted(changed_keys(config))
    if given or instances is not None:
        flags = ", ".join([*(flag_of(key) for key in given), *(["--instances"] if instances is not None else [])])
        raise MeasurementFailed(
            f"--url names a server that runs already: {flags} cannot change it. Leave one of them out"
        )
    return Target(url, name, tuple(headers))


def _this_machine() -> dict[str, Any]:
    """Where perf_analyzer runs; a server named by --url may be elsewhere."""
    import torch

    from flover_backend.bench_engine.machine import describe_machine

    return describe_machine(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _model(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).is_dir() else model


if __name__ == "__main__":
    main()
