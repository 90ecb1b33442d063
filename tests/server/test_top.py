"""`flover top` as a user sees it on a terminal, over the life of a server: not there, there, unloaded, restarted."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import Command
from live_server import free_ports
from terminal import Terminal

from flover_client import Client

SHOWN_AGAIN = "\x1b[?1049l"
"""The terminal's own screen is back."""


@contextmanager
def watching(folder: Path, *arguments: str) -> Iterator[Terminal]:
    """`flover top` on a terminal; ended with Ctrl-C."""
    terminal = Terminal(folder, "top", "--interval", "0.3", *arguments)
    try:
        yield terminal
        terminal.press_ctrl_c()
        assert terminal.wait() == 0, terminal.text()
        assert "Traceback" not in terminal.text()
        assert SHOWN_AGAIN in terminal.text()
    finally:
        if terminal.process.poll() is None:
            terminal.process.kill()


def wait_new(terminal: Terminal, pattern: str) -> None:
    """`pattern` comes in what is shown from now on."""
    begin = len(terminal.text())
    deadline = time.monotonic() + 90
    while not re.search(pattern, terminal.text()[begin:]):
        assert time.monotonic() < deadline, f"{pattern!r} did not come:\n{terminal.text()[begin:][-3000:]}"
        time.sleep(0.05)


def test_no_server_on_a_terminal(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with watching(tmp_path, "--url", f"127.0.0.1:{port}") as terminal:
        terminal.wait_for(rf"no server answers at\s+http://127.0.0.1:{port}/metrics")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_server_off_a_terminal(tmp_path: Path, number: int) -> None:
    """Told once, not at each look."""
    (port,) = free_ports(1)
    command = Command(tmp_path, "top", "--interval", "0.1", "--url", f"127.0.0.1:{port}")
    command.wait_for("no server answers at")
    time.sleep(0.5)
    os.kill(command.process.pid, number)
    assert command.wait() == 0
    assert command.text().count("no server answers at") == 1


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[], Command]]:
    """serve() -> `flover serve` on the ports of `serve.ports`, ready."""
    ports = free_ports(3)
    flags = [f"--{kind}-port={port}" for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True)]
    started: list[Command] = []

    def start() -> Command:
        started.append(Command(tmp_path, "serve", "--max-rows", "4", *flags))
        with Client(f"127.0.0.1:{ports[1]}") as client:
            deadline = time.monotonic() + 90
            while not client.is_ready():
                assert time.monotonic() < deadline and started[-1].process.poll() is None, started[-1].text()
                time.sleep(0.1)
        return started[-1]

    start.ports = ports  # type: ignore[attr-defined]
    yield start
    for command in started:
        if command.process.poll() is None:
            command.process.terminate()
            command.wait()


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """top(*arguments) -> the command off a terminal; none outlives the test."""
    started: list[Command] = []

    def start(*arguments: str) -> Command:
        started.append(Command(tmp_path, "top", "--interval", "0.3", *arguments))
        return started[-1]

    yield start
    for command in started:
        command.process.kill()
        command.wait()


@pytest.mark.slow
def test_the_life_of_a_server(tmp_path: Path, serve: Callable[[], Command], top: Callable[..., Command]) -> None:
    http, grpc, metrics = serve.ports  # type: ignore[attr-defined]
    url = f"127.0.0.1:{metrics}"
    plain, lines = top("--url", url), top("--json", "--url", url)
    with watching(tmp_path, "--url", url) as terminal:
        terminal.wait_for("no server answers")
        server = serve()
        terminal.wait_for("version 1")
        with Client(f"127.0.0.1:{grpc}") as client:
            with client.stream([5, 6], max_tokens=2000, ignore_eos=True) as stream:
                next(stream)
                wait_new(terminal, r"1\.0 of 4  \(1 running\)")
                wait_new(terminal, "█")
            client.generate([5], max_tokens=5, ignore_eos=True)
        wait_new(terminal, r"0\.0 of 4  \(0 running\)")
        _post(f"http://127.0.0.1:{http}/v2/repository/models/flover/unload")
        wait_new(terminal, "has no flover metrics")
        _post(f"http://127.0.0.1:{http}/v2/repository/models/flover/load")
        wait_new(terminal, "0 waiting")
        server.process.terminate()
        server.wait()
        wait_new(terminal, "no server answers")
        serve()
        wait_new(terminal, "0 waiting")
    for command in (plain, lines):
        os.kill(command.process.pid, signal.SIGINT)
        assert command.wait() == 0
        assert command.text().count("no server answers") == 2, command.text()
    assert re.search(r"flover/1  rows 1\.0/4  running 1  waiting 0 .* tokens/s [1-9]", plain.text())
    looks = [json.loads(line) for line in lines.text().splitlines() if line.startswith("{")]
    assert any(look["models"][0]["window"]["decode_tokens"] > 0 for look in looks)
    assert all(
        (rate is None or rate >= 0)
        for look in looks
        for model in look["models"]
        for rate in [model["window"]["decode_tokens_per_s"]]
    )


def _post(url: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=60).close()
