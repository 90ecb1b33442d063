"""The command line of `python -m benchmarks.through_triton`.

Exit status: 0 all bars held, or none apply; 1 one was missed, a line that was asked for was not measured, or an error,
told in words; 2 the command line is wrong; 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from benchmarks.new_folder import new_folder
from benchmarks.pa.errors import MeasurementFailed
from benchmarks.stops import ended_by_signals
from benchmarks.suite.layers.model import ENGINE_PYTHON
from benchmarks.through_triton import profile
from benchmarks.through_triton.measure import Asked, Measured, Through, max_tokens
from benchmarks.through_triton.record import write_record
from benchmarks.through_triton.table import line_of, markdown, misses

PROGRAM = "benchmarks.through_triton"
PARTS = ("burst", "chat", "pytriton", "profile")
STREAMS = {"13b": (1, 32, 256), "8b": (32, 256, 1024)}
BY_DEFAULT = {"13b": ("burst", "chat", "pytriton"), "8b": ("burst",)}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    with ended_by_signals("through_triton"):
        app(arguments, prog_name=f"python -m {PROGRAM}")


@app.command()
def through_triton(
    *,
    model: Annotated[str, typer.Option(help="A shape such as 13b or 8b, a bundled model, or a directory.")] = "13b",
    only: Annotated[
        str | None, typer.Option(help=f"Of {', '.join(PARTS)}; several by commas.", show_default="as the bars ask")
    ] = None,
    streams: Annotated[str | None, typer.Option(help="Of the bursts.", show_default="as the bars ask")] = None,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a burst's prompts.")] = 8,
    new: Annotated[int, typer.Option(min=1, help="New tokens of a burst's requests.")] = 504,
    repeats: Annotated[int, typer.Option(min=1, help="Of a burst; from 256 streams on of the engine two at most.")] = 3,
    chat_requests: Annotated[int, typer.Option(min=2, help="Of the chat mix.")] = 300,
    chat_rate: Annotated[float, typer.Option(help="Requests a second of the chat mix.")] = 20.0,
    pytriton_streams: Annotated[int, typer.Option(min=1, help="Of the burst through PyTriton.")] = 32,
    instances: Annotated[
        int | None, typer.Option(min=1, max=64, help="Fronts.", show_default="as flover serve")
    ] = None,
    sender_threads: Annotated[
        int | None, typer.Option(min=1, help="Of each front.", show_default="as flover serve")
    ] = None,
    profile_streams: Annotated[int, typer.Option(min=1, help="Of the burst of --only profile.")] = 256,
    counts: Annotated[str, typer.Option(help="Numbers of fronts for --only profile.")] = "1,2,4,8",
    senders: Annotated[str, typer.Option(help="Numbers of sender threads for --only profile.")] = "1,2,4",
    prefill_token_budget: Annotated[
        int | None, typer.Option(min=1, help="Of the engine, bare and served.", show_default="as flover serve")
    ] = None,
    engine_python: Annotated[
        Path | None, typer.Option(envvar=ENGINE_PYTHON, help="Interpreter with torch.", show_default="this one")
    ] = None,
    perf_analyzer: Annotated[
        Path | None, typer.Option(help="Its binary.", show_default="tritonclient's", exists=True, dir_okay=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder.", show_default="out/through_triton/TIME")] = None,
) -> None:
    """Bursts and a chat mix through Triton by perf_analyzer, beside the bare engine on the same requests."""
    if engine_python:
        if shutil.which(engine_python) is None:
            raise typer.BadParameter(f"--engine-python {engine_python} is no program; give a Python that has torch")
        os.environ[ENGINE_PYTHON] = str(engine_python)
    parts = _parts(only, model)
    if not 0 < chat_rate < float("inf"):
        raise typer.BadParameter(f"--chat-rate is {chat_rate:g}; allowed are numbers above 0, requests a second")
    if set(parts) - {"chat"}:
        check_length(model, prompt, new)
    keys = {"sender_threads": sender_threads, "prefill_token_budget": prefill_token_budget}
    asked = Asked(
        model,
        _streams(streams, model) if "burst" in parts else (),
        prompt,
        new,
        repeats,
        chat_requests,
        chat_rate,
        pytriton_streams=pytriton_streams,
        analyzer=perf_analyzer,
        instances=instances,
        profile_streams=profile_streams,
        counts=numbers(counts, "--counts"),
        senders=numbers(senders, "--senders"),
        keys={name: value for name, value in keys.items() if value is not None},
    )
    folder = new_folder(out, "through_triton")
    measured = _measure(Through(asked, _tell), parts, folder)
    missed = [f"{one.title}: {', '.join(found)}" for one in measured if (found := misses(one, line_of(one, asked).bar))]
    if missed:
        raise MeasurementFailed(f"missed: {'; '.join(missed)}")


def _measure(through: Through, parts: tuple[str, ...], folder: Path) -> list[Measured]:
    asked, started, measured = through.asked, time.monotonic(), through.wanted(parts)
    bare_of = [("pytriton", asked.pytriton_streams), ("profile", asked.profile_streams)]
    through.measure_engine([*asked.streams, *(streams for part, streams in bare_of if part in parts)])
    through.probe()
    if measured:
        _save(folder, through, measured, started)
    if "burst" in parts or "chat" in parts:
        for one in through.bursts_and_chat(asked.streams, "chat" in parts):
            measured = _filled(measured, one)
            _save(folder, through, measured, started)
    if "pytriton" in parts:
        measured = _filled(measured, through.pytriton())
        _save(folder, through, measured, started)
    if "profile" in parts:
        _profile(folder, through, started)
    for name in ("through_triton.md", "profile.md"):
        if (folder / name).is_file():
            print((folder / name).read_text(), flush=True)
    print(f"{time.monotonic() - started:.0f} s; saved in {folder}", flush=True)
    return measured


def _filled(lines: list[Measured], one: Measured) -> list[Measured]:
    """`lines` with `one` in its place."""
    return [one if (line.part, line.streams) == (one.part, one.streams) else line for line in lines]


def _profile(folder: Path, through: Through, started: float) -> None:
    asked, bare = through.asked, through.bare
    assert bare is not None, "measured first"
    settings = profile.settings_of(asked.counts, asked.senders)
    found = profile.profile_burst(asked, through.burst(asked.profile_streams), settings, _tell)
    engine = through.bare_runs(asked.profile_streams)
    content = {"streams": asked.profile_streams, "bare": engine, "lines": found}
    write_record(folder / "profile.json", PROGRAM, bare, started, **content)
    text = profile.markdown(found, asked.profile_streams, through.bare_wall_s(asked.profile_streams))
    (folder / "profile.md").write_text(text)


def _save(folder: Path, through: Through, measured: list[Measured], started: float) -> None:
    """Before the first line and after each: a part that fails leaves what was measured, and the rest named."""
    bare = through.bare
    assert bare is not None, "measured first"
    lines = [
        msgspec.to_builtins(one) | {"share": one.share, "missed": misses(one, line_of(one, through.asked).bar)}
        for one in measured
    ]
    write_record(folder / "through_triton.json", PROGRAM, bare, started, lines=lines)
    (folder / "through_triton.md").write_text(markdown(measured, through.asked, bare.products_13b_ms))


def _parts(only: str | None, model: str) -> tuple[str, ...]:
    parts = tuple(only.split(",")) if only else BY_DEFAULT.get(model, ("burst", "chat", "pytriton"))
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise typer.BadParameter(f"--only is {only!r}; allowed: {', '.join(PARTS)}, several by commas")
    return parts


def _streams(text: str | None, model: str) -> tuple[int, ...]:
    if text is None:
        return STREAMS.get(model, (1, 32))
    return numbers(text, "--streams")


def numbers(text: str, flag: str, least: int = 1) -> tuple[int, ...]:
    """`(1, 4)` for `1,4`, each once. Raises `BadParameter` naming the flag."""
    if not all(part.isdecimal() and int(part) >= least for part in text.split(",")):
        raise typer.BadParameter(f"{flag} is {text!r}; allowed are whole numbers from {least} on, such as 1,4,8")
    return tuple(dict.fromkeys(map(int, text.split(","))))


def check_length(model: str, prompt: int, new: int) -> None:
    """Raises `BadParameter` for requests that are longer than the model allows; `ConfigError` where there is none."""
    most = max_tokens(model)
    if prompt + new > most:
        raise typer.BadParameter(
            f"--prompt and --new are {prompt} + {new} = {prompt + new} tokens; {model} allows 2 .. {most} a request"
        )


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
