"""The command `flover`: parses, calls, and turns an error into one line and an exit status. Imports late, to be quick.

Exit status: 0 done; 1 an error, told in one line; 2 the command line is wrong; 130 interrupted.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from flover_backend.cli_bench import bench_app
from flover_backend.cli_exit import exit_status
from flover_backend.cli_options import model_json, with_model_json_flags
from flover_backend.errors import ConfigError

app = typer.Typer(
    help="Serve autoregressive language models by temporal fusion behind NVIDIA Triton Inference Server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point of the command."""
    with exit_status("flover"):
        app()


@app.command()
@with_model_json_flags
def serve(
    server_arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- --OPTION=VALUE", help="Options of tritonserver itself; paths absolute."),
    ] = None,
    *,
    model: Annotated[
        str | None, typer.Option(help="Hugging Face directory, or llama-demo or gptj-demo.", show_default="llama-demo")
    ] = None,
    name: Annotated[str, typer.Option(help="Triton's name of the model.")] = "flover",
    instances: Annotated[
        int | None, typer.Option(min=1, max=64, help="Front processes.", show_default="4 on a GPU, 1 on a CPU")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0: any free one.")] = 8001,
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP port; 0: any free one.")] = 8000,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Metrics port; 0: any free one.")] = 8002,
    log_file: Annotated[
        Path | None,
        typer.Option(help="File for the server's whole log; then standard error shows warnings and errors."),
    ] = None,
    **keys: Any,
) -> None:
    """Serve a model with the tritonserver of the nvidia-pytriton wheel, until Ctrl-C."""
    from flover_backend.serve import serve as run
    from flover_backend.server import ServerOptions
    from flover_backend.server_files import check_model_name
    from flover_backend.server_log import open_log_file

    with _usage_error("--name"):
        check_model_name(name)
    with _usage_error("--log-file"):
        if log_file is not None:
            open_log_file(log_file).close()
    further = tuple(server_arguments or ())
    if stray := [argument for argument in further if not argument.startswith("--")]:
        raise typer.BadParameter(f"{stray[0]!r} is no option of tritonserver's: give --OPTION=VALUE behind --")
    config = model_json({"model": _absolute(model), **keys})
    show, own_lines = functools.partial(print, file=sys.stderr), log_file is None
    ports = (http_port, grpc_port, metrics_port)
    run(ServerOptions(config, name, instances, host, *ports, log_file, show, own_lines, further))


@contextmanager
def _usage_error(flag: str) -> Iterator[None]:
    """A `ConfigError` is this flag's."""
    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint=flag) from None


def _absolute(model: str | None) -> str | None:
    """A directory as an absolute path; the server runs elsewhere. Raises `ConfigError` for what is nothing."""
    from flover_backend.bundled import path_of

    if model is not None and Path(model).is_dir():
        return str(Path(model).resolve())
    if model is not None:
        path_of(model)
    return model


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def drain(context: typer.Context) -> None:
    """Let a tritonserver finish what it runs and refuse the rest, as a preStop hook does: flover drain --help."""
    from flover_backend.drain import main as run

    run(context.args, "flover drain")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def doctor(context: typer.Context) -> None:
    """Check a machine, a server and a model repository before deploying, and say what to do: flover doctor --help."""
    from flover_backend.doctor.command import main as run

    sys.exit(run(context.args, "flover doctor"))


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What the model goes on from, or with --chat the question.")],
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it comes.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt through the chat template of --model.")] = False,
    model: Annotated[Path | None, typer.Option(help="Hugging Face directory that holds the chat template.")] = None,
    url: Annotated[str, typer.Option(help="gRPC address of the server.")] = "127.0.0.1:8001",
    name: Annotated[str, typer.Option(help="Triton's name of the model.")] = "flover",
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of the answer.", show_default="16")] = None,
    min_tokens: Annotated[int | None, typer.Option(help="Fewest tokens of the answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", show_default="1.0")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample among so many of the most likely tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample within this share of the probability.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Leave out tokens below this share of the likeliest.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1: less repetition.")] = None,
    presence_penalty: Annotated[float | None, typer.Option(help="Subtracted once for a token that occurred.")] = None,
    frequency_penalty: Annotated[float | None, typer.Option(help="Subtracted for each time it occurred.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given several times.")] = None,
    ignore_eos: Annotated[bool | None, typer.Option("--ignore-eos", help="Go on after an end-of-text token.")] = None,
    deadline_ms: Annotated[int | None, typer.Option(help="End after so many milliseconds.")] = None,
) -> None:
    """Send one prompt to a running server and print the answer."""
    given = dict(locals())
    from flover_backend.generate import chat_prompt
    from flover_backend.generate import generate as run

    if chat and model is None:
        raise typer.BadParameter("--chat needs --model DIR, the directory whose chat template is meant")
    if chat and model is not None:
        prompt = chat_prompt(prompt, model)
    own = ("prompt", "stream", "chat", "model", "url", "name")
    parameters = {key: value for key, value in given.items() if key not in own and value not in (None, [])}
    run(url, name, prompt, stream=stream, parameters=parameters)


@app.command()
def top(
    url: Annotated[
        str, typer.Option(help="Where the server's metrics are: HOST:PORT or a URL.")
    ] = "http://127.0.0.1:8002/metrics",
    model: Annotated[
        list[str] | None,
        typer.Option(help="NAME or NAME/VERSION; may be given several times.", show_default="all flover models"),
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")] = 1.0,
    window: Annotated[float, typer.Option(min=1, max=86400, help="Seconds that rates and latencies are over.")] = 10.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, an interval apart, print once and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each look.")] = False,
) -> None:
    """Watch a live server: rows in flight, queue, KV in use, tokens/s, latencies; from its metrics alone.

    Off a terminal it prints a line a look. Ctrl-C ends it.
    """
    from flover_backend.top.run import TopOptions
    from flover_backend.top.run import top as run

    run(TopOptions(url, tuple(model or ()), interval, window, once, json))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="GGUF file of the LLaMA family.")],
    directory: Annotated[Path, typer.Argument(help="Hugging Face directory to write.")],
) -> None:
    """Make a Hugging Face directory of a GGUF file."""
    from flover_backend.importer.gguf import import_gguf
    from flover_backend.importer.progress import console_progress

    with console_progress() as progress:
        print(import_gguf(file, directory, progress=progress))


@app.command()
def demo(
    requests: Annotated[int, typer.Option(min=1, max=1000, help="How many questions to send.")] = 24,
    interval_ms: Annotated[
        float | None,
        typer.Option(min=0, help="Constant gap between arrivals.", show_default="a Poisson process, mean 300 ms"),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(help="LOW:HIGH, answer lengths in tokens, uniformly random.", show_default="as the model ends it"),
    ] = None,
    picture: Annotated[Path, typer.Option(help="PNG file for the chart.")] = Path("out/demo.png"),
) -> None:
    """Watch questions that arrive at random fuse into one batch in a real Triton server.

    Flover's own demonstration: flover demo --requests 32 --interval-ms 500 --lengths 128:512
    """
    from flover_backend.demo.run import DemoOptions
    from flover_backend.demo.run import demo as run

    run(DemoOptions(requests, interval_ms, lengths, picture))


app.add_typer(bench_app, name="bench")


if __name__ == "__main__":
    main()
