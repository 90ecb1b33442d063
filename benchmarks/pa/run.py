"""Runs perf_analyzer once, and explains in its own words why it failed. Knows no figure and no server's life."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pa.binary import PerfAnalyzer
from benchmarks.pa.errors import MeasurementFailed

POLL_S = 0.1
END_TIMEOUT_S = 5.0
LAST_LINES = 15
HINTS = {
    "Failed to retrieve results": (
        "An error response to any request ends perf_analyzer's run; the last line above is the server's."
    ),
    "token id": "Random prompts hold ids below --vocab-size.",
    "before request period was reached": (
        "A request had fewer responses than --request-period. A response may hold several tokens, so that there are "
        "fewer responses than tokens: give a smaller --request-period or longer --output-tokens."
    ),
    "stable measurement": "Measure longer (--seconds), or by --requests.",
    "No valid requests recorded": "No request ended inside a window: measure longer (--seconds), or by --requests.",
    "unrecognized option": "This perf_analyzer does not know a flag that was given after --.",
    "Request for unknown model": "--name is the model's name on that server.",
}


@dataclass(frozen=True)
class Target:
    """A model of a live server."""

    url: str
    """host:port of its gRPC endpoint."""
    model: str = "flover"
    headers: Sequence[str] = ()
    """NAME:VALUE, sent with every call. Their values are secrets: nothing that is written holds them."""

    def metadata(self) -> dict[str, str]:
        """The headers as tritonclient takes them."""
        return dict(header.split(":", 1) for header in self.headers)


def command(analyzer: PerfAnalyzer, target: Target, inputs: Path, export: Path, arguments: Sequence[str]) -> list[str]:
    """The command line. A decoupled model is measured over gRPC, asynchronously, by streams."""
    where = ["-m", target.model, "-u", target.url, "-i", "grpc", "--async", "--streaming"]
    files = ["--input-data", str(inputs), "--profile-export-file", str(export)]
    headers = [part for header in target.headers for part in ("-H", header)]
    return [str(analyzer.path), *where, *headers, *files, *arguments]


def without_secrets(command_line: Sequence[str]) -> str:
    """For people: quoted, the values of headers left out."""
    shown = list(command_line)
    for place, argument in enumerate(shown):
        if argument.startswith("--header=") or (place and shown[place - 1] in ("-H", "--header")):
            shown[place] = argument.partition(":")[0] + ":..."
    return shlex.join(shown)


def run(
    analyzer: PerfAnalyzer,
    command_line: Sequence[str],
    log: Path,
    limit_s: float,
    tick: Callable[[float], None] = lambda seconds: None,
) -> None:
    """Return when it has ended well; its output is in `log`. `tick` is told the seconds so far, and may raise.

    Raises `MeasurementFailed`.
    """
    started = time.monotonic()
    # NOTE: no preexec_fn: it makes Python fork, and gRPC, whose channel this process may hold, breaks the child.
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command_line),
            env=analyzer.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while process.poll() is None:
            elapsed = time.monotonic() - started
            if elapsed > limit_s:
                raise MeasurementFailed(_explain_limit(limit_s, log))
            tick(elapsed)
            time.sleep(POLL_S)
    finally:
        _end(process)
    tick(time.monotonic() - started)  # a terminal's Ctrl-C ends perf_analyzer too: that is no failure of its own
    if process.returncode:
        raise MeasurementFailed(explain(process.returncode, log.read_text(errors="replace"), command_line))


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def explain(status: int, output: str, command_line: Sequence[str]) -> str:
    """Why it ended with `status`, from what it printed, without its list of options."""
    said = last_lines(output)
    hints = [hint for text, hint in HINTS.items() if text in output]
    ending = f"was ended by signal {-status}" if status < 0 else f"ended with {status}"
    return "\n".join([f"perf_analyzer {ending}:", *said, *hints, f"It was: {without_secrets(command_line)}"])


def last_lines(output: str) -> list[str]:
    """The last that are not blank, indented. A wrong flag makes it print its whole usage: that is left out."""
    told, _, _ = f"\n{output}".partition("\nUsage:")
    lines = [line for line in told.splitlines() if line.strip()]
    return [f"    {line}" for line in lines[-LAST_LINES:]] or ["    (it printed nothing)"]


def _explain_limit(limit_s: float, log: Path) -> str:
    lines = last_lines(log.read_text(errors="replace"))
    advice = (
        "In periodic mode it waits for ever when a request fails, and says nothing of it: the same requests with "
        "the mode concurrency show the error. A longer run needs a larger --limit."
    )
    return "\n".join([f"perf_analyzer was ended after --limit {limit_s:g} s. It had printed:", *lines, advice])
