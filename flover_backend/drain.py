"""`flover drain`, and `python3 -m flover_backend.drain` where only the package's base is installed (a stub's Python).

Makes a tritonserver that runs ready to be stopped: a preStop hook, or by hand. Needs neither torch nor typer.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress

from flover_backend.cli_exit import exit_status
from flover_backend.coming_engines import engines_being_started, seconds_worth_waiting
from flover_backend.draining import ServerDrain
from flover_backend.errors import ConfigError, FloverError
from flover_backend.observer import FoundEngine
from flover_backend.server_processes import (
    check_server,
    engines_of,
    foreign_servers,
    is_tritonserver,
    own_tritonservers,
    servers_with_engines,
)
from flover_backend.stop_signals import StopSignals

STOP_TIMEOUT_S = 35.0
"""Triton's own --exit-timeout-secs is 30 unless it is told another; then it is killed."""


class DrainFailed(FloverError):
    """Something may still run."""


def main(arguments: Sequence[str] | None = None, program: str = "python3 -m flover_backend.drain") -> None:
    """Run the command. Raises `FloverError`, `Stopped`."""
    given = _parser(program).parse_args(arguments)
    signals = StopSignals()
    targets = {pid: os.pidfd_open(pid) for pid in _targets(given.pid, given.all)}
    drain = ServerDrain(lambda: _find(targets), given.timeout, "flover drain", _say, lambda: _patience(targets))

    def check_signals() -> bool:
        signals.check()
        return False

    drain.run(check_signals)
    unseen = [pid for pid in targets if engines_being_started(pid)]
    if not drain.drains and not unseen:
        _say(f"no engine of this backend in server {', '.join(map(str, targets)) or '(any)'}: nothing to drain")
    if given.stop:
        for pid, server in targets.items():
            _stop(pid, server)
    if left := [one.name for one in drain.drains if not one.is_clean]:
        raise DrainFailed(f"not drained: {', '.join(left)}")
    if unseen:
        servers = ", ".join(map(str, unseen))
        raise DrainFailed(f"not drained: an engine of server {servers} is being started and not to be seen yet")


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Let a tritonserver finish what it runs: new requests are refused with UNAVAILABLE, running ones "
        "finish until the timeout, the rest is ended with UNAVAILABLE; the drained models take no request again. "
        "Exit status: 0 nothing runs any more, 1 something may (an engine that hangs) or no server was found, "
        "2 wrong arguments, 130 interrupted (the drain goes on in the server).",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--pid", type=int, help="the tritonserver; default: the only one of this user")
    which.add_argument("--all", action="store_true", help="all tritonservers of this user")
    parser.add_argument(
        "--timeout", type=_seconds, help="seconds that running requests get; default: each model's drain_timeout_s"
    )
    parser.add_argument(
        "--stop",
        action="store_true",
        help=f"afterwards SIGTERM to the server, wait for its end, SIGKILL after {STOP_TIMEOUT_S:.0f} s",
    )
    return parser


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= 86400:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r}; allowed are 0 .. 86400")


def _targets(pid: int | None, every: bool) -> list[int]:
    if pid is not None:
        check_server(pid)
        if not is_tritonserver(pid) and not engines_of(pid) and not seconds_worth_waiting(pid):
            raise ConfigError(f"process {pid} is no tritonserver and has no engine; find it: pgrep tritonserver")
        return [pid]
    found = servers_with_engines() or _without_engines(every)
    if len(found) > 1 and not every:
        raise ConfigError(f"this user has {len(found)} servers, {', '.join(map(str, found))}: give --pid or --all")
    return found


def _without_engines(every: bool) -> list[int]:
    """What is meant where no engine is to be seen: with `every` no server, else any tritonserver of this user."""
    if found := own_tritonservers():
        return [] if every else found
    others = ", ".join(map(str, foreign_servers()))
    hint = f"others run {others}: run this as their user, or as root with --pid" if others else "none runs here"
    raise DrainFailed(f"no tritonserver of this user (id {os.geteuid()}) is to be seen: {hint}")


def _find(targets: Iterable[int]) -> list[FoundEngine]:
    return [engine for pid in targets for engine in engines_of(pid)]


def _patience(targets: Iterable[int]) -> float:
    return max(map(seconds_worth_waiting, targets), default=0.0)


def _stop(pid: int, server: int) -> None:
    """End the server behind a pidfd, by force if need be: its fronts and its engines then end by themselves."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(server, number)
        if select.select([server], [], [], STOP_TIMEOUT_S)[0]:
            _say(f"server {pid} has ended" + (", killed" if number == signal.SIGKILL else ""))
            return
        _say(f"server {pid} did not end within {STOP_TIMEOUT_S:.0f} s of {number.name}")


def _say(text: str) -> None:
    print(f"flover: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    with exit_status("flover"):
        main()
