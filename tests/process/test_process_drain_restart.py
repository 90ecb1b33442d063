"""A drain while an engine is started again: what the dead one had accepted is neither refused nor overlooked."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_host import Host, wait_until
from supervised_front import SupervisedFront

from flover_backend import coming_engines, drain
from flover_backend.coming_engines import STARTING_S, seconds_worth_waiting
from flover_backend.draining import SUCCESSOR_S, ServerDrain
from flover_backend.engine_files import EngineFiles
from flover_backend.observer import find_engines
from flover_backend.request import Request

CUT = ("UNAVAILABLE", "the server shut down before the request was finished", "shutdown")


def waiting_front(host: Host) -> tuple[SupervisedFront, list[Request]]:
    """One request runs and has sent a token; those that are returned wait behind it."""
    front = running_front(host)
    return front, [front.ask([10 + number]) for number in range(3)]


def running_front(host: Host, name: str = "front") -> SupervisedFront:
    front = SupervisedFront(host, name)
    blocker = front.ask([1], max_tokens=1000)
    front.wait(lambda: (blocker.key, 0) in front.tokens, "the first token")
    return front


def drain_here(host: Host, timeout_s: float, patience: Callable[[], float] = lambda: 0.0) -> tuple[ServerDrain, str]:
    """In this process; what it told."""
    said: list[str] = []
    drain = ServerDrain(lambda: find_engines(host.server.pid), timeout_s, "a test", said.append, patience)
    drain.run()
    return drain, "\n".join(said)


def die(host: Host, front: SupervisedFront) -> None:
    """Return when the next engine has published itself; it loads."""
    dead = front.engine.info.pid
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: [pid for pid in host.engine_pids() if pid != dead], "the next engine")


def test_the_next_engine_runs_what_waits_for_it_before_it_says_that_it_is_drained(host: Host) -> None:
    host.steer(max_rows=1, step_s=0.01)
    front, waiting = waiting_front(host)
    host.steer(load_s=0.3)
    die(host, front)
    done, said = drain_here(host, 60.0)
    assert f"drained: {len(waiting)} requests finished, 0 were ended" in said
    assert [one.is_clean for one in done.drains] == [True]
    assert all((each.key, 0) in front.finish for each in waiting)
    late = front.ask([5])
    front.wait_ended(late.key)
    assert front.ended == {late.key: ("UNAVAILABLE", "the server is draining: new requests are refused", "refused")}


def test_without_time_they_are_ended_as_what_runs_is(host: Host) -> None:
    host.steer(max_rows=1, step_s=0.01)
    front, waiting = waiting_front(host)
    host.steer(load_s=0.3)
    die(host, front)
    drain_here(host, 0.0)
    front.wait_ended(*(each.key for each in waiting))
    assert front.ended == {each.key: CUT for each in waiting}


def test_an_engine_that_is_not_loaded_in_time_is_no_clean_end(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flover_backend.draining.CUT_TIMEOUT_S", 0.2)
    host.steer(max_rows=1, step_s=0.01)
    front, _ = waiting_front(host)
    host.steer(load_s=3600.0)
    die(host, front)
    done, said = drain_here(host, 0.0)
    assert [one.is_clean for one in done.drains] == [False]
    assert "it is started again and was not loaded in time" in said


@pytest.mark.slow
def test_a_drain_between_two_engines_finds_the_second(host: Host) -> None:
    """Whatever of them is to be seen at its first look."""
    host.steer(max_rows=2, step_s=0.01)
    fronts = [running_front(host, name) for name in ("one", "two")]
    waiting = [(front, front.ask([10 + number])) for number in range(3) for front in fronts]
    host.steer(load_s=0.2)
    (dead,) = host.engine_pids()
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: dead not in host.engine_pids(), "the end of its files")
    wait_until(lambda: seconds_worth_waiting(host.server.pid) or host.engine_pids(), "a sign of the next one")
    done, said = drain_here(host, 60.0, lambda: seconds_worth_waiting(host.server.pid))
    assert f"drained: {len(waiting)} requests finished, 0 were ended" in said
    assert [one.is_clean for one in done.drains] == [True]
    assert all((each.key, 0) in front.finish for front, each in waiting)


@pytest.fixture
def unpublished(host: Host) -> EngineFiles:
    """A front has bound the socket; the engine has not described itself."""
    host.runtime_dir.mkdir(parents=True, mode=0o700, exist_ok=True)
    files = EngineFiles(host.runtime_dir, f"{host.server.pid}-0123456789")
    with files.listen():
        return files


def test_nothing_found_is_no_success_while_an_engine_is_being_started(
    host: Host, unpublished: EngineFiles, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seconds_worth_waiting(host.server.pid) == STARTING_S
    monkeypatch.setattr(coming_engines, "STARTING_S", 0.2)
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(drain.DrainFailed, match=f"an engine of server {host.server.pid} is being started"):
            drain.main(["--pid", str(host.server.pid), "--timeout", "1"])
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    assert "nothing to drain" not in capsys.readouterr().err


def test_fronts_without_an_engine_are_a_reason_to_look_longer(tmp_path: Path) -> None:
    """The server is a shell, which has no engine of another test; its stub names a model.py."""
    stub, other, ours = tmp_path / "triton_python_backend_stub", tmp_path / "other.py", tmp_path / "model.py"
    stub.symlink_to("/bin/sh")
    other.write_text("import numpy\n")
    ours.write_text("from flover_backend.front.adapter import TritonPythonModel\n")
    for source, seconds in ((other, 0.0), (ours, SUCCESSOR_S)):
        command = ["/bin/sh", "-c", '"$0" -c "echo up; read line" "$1"; read line', stub, source]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None and server.stdin is not None
            assert server.stdout.readline() == b"up\n"
            assert seconds_worth_waiting(server.pid) == seconds
            server.stdin.write(b"the stub ends\n")
            server.stdin.flush()
            wait_until(lambda pid=server.pid: seconds_worth_waiting(pid) == 0.0, "no front is left")
