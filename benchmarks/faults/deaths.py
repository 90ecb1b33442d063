"""The engine killed or hung, and the whole server killed: how soon clients hear of it, and what is left behind."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.rows import NOTHING, Row
from benchmarks.pa.errors import MeasurementFailed
from benchmarks.pa.run import Target
from benchmarks.suite.load.calls import Answer, Call
from benchmarks.suite.load.generator import send_calls
from benchmarks.suite.workloads import prompt_ids
from benchmarks.through_triton.cpu import family
from flover_backend.config import ModelJson
from flover_backend.lifeline import shared_memory_regions
from flover_backend.observer import find_engines
from flover_backend.runtime_dir import process_start_ticks
from flover_backend.server import ServerOptions, TritonServer

NOTICED_S, GONE_S = 5.0, 5.0
WATCH_S = 20.0
"""How long to look for what is left."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Deaths:
    """What is asked."""

    max_rows: int = 8
    """As many stream when the engine ends."""
    waiting: int = 4
    """Accepted, without a row and so without a token."""
    prompt_tokens: int = 8
    new_tokens: int = 1900
    waiting_new_tokens: int = 40
    after_s: float = 1.5
    """From the first request to the fault."""
    vocab_size: int = 1536
    repeats: int = 3
    seed: int = 1

    def calls(self) -> list[Call]:
        """Those that stream, then those that wait."""
        source = random.Random(f"deaths {self.seed}")
        prompts = prompt_ids(
            [self.prompt_tokens] * (self.max_rows + self.waiting), self.vocab_size, source.getrandbits(32)
        )
        streams = [Call(0.0, prompt, self.new_tokens) for prompt in prompts[: self.max_rows]]
        return streams + [
            Call(self.after_s / 2, prompt, self.waiting_new_tokens) for prompt in prompts[self.max_rows :]
        ]


def measure_deaths(asked: Deaths, tell: Tell) -> list[Row]:
    """Starts servers with two fronts. Raises `MeasurementFailed`, `ServerFailed`."""
    config = ModelJson(max_rows=asked.max_rows, engine_restarts=2 * asked.repeats)
    rows = []
    with TritonServer(ServerOptions(config=config, instances=2)) as server:
        for how, number in (("killed", signal.SIGKILL), ("stopped, as if it hung", signal.SIGSTOP)):
            rows += _engine_ended(asked, server, how, number, tell)
    return rows + [_server_killed(asked, when, tell) for when in ("load", "idle", "decode")]


def _engine_ended(asked: Deaths, server: TritonServer, how: str, number: signal.Signals, tell: Tell) -> list[Row]:
    noticed, served, lost = [], [], 0
    for _ in range(asked.repeats):
        answers, at = _signal_during(asked, server, _engine(server), number)
        streams, waiting = answers[: asked.max_rows], answers[asked.max_rows :]
        noticed.append(
            max((answer.ended for answer in streams if answer.code == "INTERNAL"), default=float("nan")) - at
        )
        lost += sum(answer.code != "INTERNAL" and answer.num_tokens != asked.new_tokens for answer in streams)
        lost += sum(answer.num_tokens != asked.waiting_new_tokens for answer in waiting)
        served.append(max(answer.ended for answer in waiting) - at)
        tell(f"engine {how}: told after {noticed[-1]:.2f} s, those without a token served after {served[-1]:.2f} s")
    fault = f"engine {how}"
    injected = f"{asked.repeats} times, {asked.max_rows} streams, {asked.waiting} waiting"
    words = f"{lost} requests without an answer" if lost else NOTHING
    return [
        Row(
            fault=fault, injected=injected, lost=words, figure="until each that had a token got INTERNAL", unit="s",
            values=noticed, bar=NOTICED_S,
        ),
        Row(
            fault=fault, injected=injected, lost=words, figure="until those that waited had their whole answers",
            unit="s", values=served,
        ),
    ]  # fmt: skip


def _engine(server: TritonServer) -> int:
    """The process id of the one that lives."""
    (found,) = [engine for engine in find_engines(server.pid) if _is_alive((engine.description.engine_pid, None))]
    return found.description.engine_pid


def _signal_during(asked: Deaths, server: TritonServer, pid: int, number: signal.Signals) -> tuple[list[Answer], float]:
    """The answers, and when the signal was sent, on their clock."""
    started: list[float] = []
    sent: list[float] = []

    def send_later(start: float) -> None:
        started.append(start)

        def send() -> None:
            os.kill(pid, number)
            sent.append(time.monotonic())

        threading.Timer(start + asked.after_s - time.monotonic(), send).start()

    answers = send_calls(Target(server.grpc_url, server.options.name), asked.calls(), 1, on_start=send_later)
    return answers, sent[0] - started[0]


def _server_killed(asked: Deaths, when: str, tell: Tell) -> Row:
    gone = []
    for _ in range(asked.repeats):
        server = TritonServer(ServerOptions(instances=2))
        try:
            server.start()
            gone.append(_kill_and_watch(asked, server, when))
        finally:
            server.stop()
        tell(f"tritonserver killed in {when}: nothing left after {gone[-1]:.2f} s")
    return Row(
        fault=f"tritonserver killed in {when}",
        injected=f"{asked.repeats} times",
        lost=NOTHING,
        figure="until no front, no engine and no file in /dev/shm was left",
        unit="s",
        values=gone,
        bar=GONE_S,
    )


def _kill_and_watch(asked: Deaths, server: TritonServer, when: str) -> float:
    """Seconds from the kill until nothing was left."""
    if when == "load":
        _wait(lambda: bool(shared_memory_regions(server.pid)), "a front started")
    else:
        server.wait_ready()
    clients = threading.Thread(target=_stream_until_cut, args=(asked, server), daemon=True)
    if when == "decode":
        clients.start()
        time.sleep(asked.after_s + 1.0)
    left = [(pid, process_start_ticks(pid)) for pid in family(server.pid)[1:]]
    assert left, "a server has at least one stub"
    regions = [Path("/dev/shm", name) for name in shared_memory_regions(server.pid)]
    os.kill(server.pid, signal.SIGKILL)
    killed = time.monotonic()
    os.waitpid(server.pid, 0)  # a stub takes a server that nobody has collected for one that lives
    _wait(lambda: not any(map(_is_alive, left)) and not any(region.exists() for region in regions), "all had ended")
    gone = time.monotonic() - killed
    if clients.ident is not None:
        clients.join()
    return gone


def _stream_until_cut(asked: Deaths, server: TritonServer) -> None:
    send_calls(Target(server.grpc_url, server.options.name), asked.calls(), 1)


def _is_alive(process: tuple[int, int | None]) -> bool:
    """Whether it runs, and not only waits to be collected; where a start time is given, as the same process."""
    pid, start = process
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX" and start in (None, process_start_ticks(pid))
    return False


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WATCH_S
    while not condition():
        if time.monotonic() > deadline:
            raise MeasurementFailed(f"waited {WATCH_S:g} s until {what}, in vain")
        time.sleep(0.01)
