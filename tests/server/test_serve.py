"""`flover serve` and `flover generate` as a user runs them, on the bundled model, to each of the ways they can end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Command, marked, wait_until_gone

READY = r"(?m)^flover: model flover is ready: gRPC (\S+), HTTP \S+, metrics \S+$"
LONG = ["Adam", "--stream", "--ignore-eos", "--max-tokens"]

Start = Callable[..., Command]


@pytest.fixture
def flover(tmp_path: Path) -> Iterator[Start]:
    """Starts commands; whatever is left of them at the end is a failure, and is killed."""
    commands: list[Command] = []

    def start(*arguments: str) -> Command:
        commands.append(Command(tmp_path, *arguments))
        return commands[-1]

    yield start
    left = [pid for command in commands for pid in marked(command.mark)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def serve(flover: Start, *arguments: str) -> tuple[Command, str]:
    """A ready server and its gRPC address."""
    server = flover("serve", "--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", *arguments)
    return server, server.wait_for(READY)[1]


def triton_of(server: Command) -> int:
    """The tritonserver's process id."""
    (pid,) = [pid for pid in marked(server.mark) if "tritonserver" in Path(f"/proc/{pid}/exe").readlink().name]
    return pid


def test_sigint_lets_what_runs_finish_refuses_what_comes_and_leaves_nothing(flover: Start) -> None:
    server, url = serve(flover, "--instances", "2", "--drain-timeout-s", "120")
    short = flover("generate", "In the beginning", "--temperature", "0", "--max-tokens", "12", "--url", url)
    assert short.wait() == 0
    assert len(short.text().split()) >= 6
    long = flover("generate", *LONG, "600", "--url", url)
    long.wait_for(r"\w{3}")
    server.process.send_signal(signal.SIGINT)
    late = flover("generate", "Adam", "--url", url)
    assert late.wait() == 1
    assert late.text().startswith("flover: ")
    assert long.wait(120) == 0
    assert len(long.text()) > 600
    assert server.wait() == 0
    assert "drained: 1 requests finished, 0 were ended" in server.text()
    assert wait_until_gone(server.mark) == []


@pytest.mark.slow
def test_the_bundled_gptj_is_served_by_its_name(flover: Start) -> None:
    server, url = serve(flover, "--model", "gptj-demo")
    answer = flover("generate", "And God said", "--temperature", "0", "--max-tokens", "12", "--url", url)
    assert answer.wait() == 0
    assert len(answer.text().split()) >= 5
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0
    assert wait_until_gone(server.mark) == []


def test_a_second_signal_cuts_the_drain_short(flover: Start) -> None:
    server, url = serve(flover)
    long = flover("generate", *LONG, "2000", "--url", url)
    long.wait_for(r"\w{3}")
    server.process.send_signal(signal.SIGTERM)
    server.process.send_signal(signal.SIGINT)
    assert long.wait() == 1
    assert "flover: the server shut down before the request was finished" in long.text()
    assert server.wait() == 0
    assert "0 requests finished, 1 were ended" in server.text()
    assert wait_until_gone(server.mark) == []


def test_killed_it_takes_everything_along(flover: Start) -> None:
    server, _ = serve(flover)
    assert len(marked(server.mark)) == 4  # itself, tritonserver, the front, the engine

    server.process.kill()
    server.wait()
    assert wait_until_gone(server.mark) == []


def test_when_its_server_dies_it_says_so_and_leaves_nothing(flover: Start) -> None:
    server, _ = serve(flover)
    os.kill(triton_of(server), signal.SIGKILL)
    assert server.wait() == 1
    assert "flover: the server ended with -9: Killed" in server.text().splitlines()
    assert wait_until_gone(server.mark) == []


def test_a_drain_that_stops_its_server_is_an_orderly_end(flover: Start) -> None:
    server, _ = serve(flover)
    drain = flover("drain", "--pid", str(triton_of(server)), "--stop")
    assert drain.wait() == 0, drain.text()
    assert server.wait() == 0, server.text()
    assert "flover: the server was stopped" in server.text().splitlines()
    assert wait_until_gone(server.mark) == []


def test_a_directory_that_is_no_model_is_refused_with_the_reason(flover: Start, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    server = flover("serve", "--model", str(tmp_path / "empty"), *ports)
    assert server.wait(90) == 1
    last = server.text().splitlines()[-1]
    assert last.startswith("flover: the server ended with 1: ")
    assert "config.json" in last
    assert wait_until_gone(server.mark) == []


def test_a_signal_while_it_loads_ends_it_cleanly(flover: Start) -> None:
    server = flover("serve", "--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")
    server.wait_for("engine: importing")
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "stopped while it was loading" in server.text()
    assert wait_until_gone(server.mark) == []
