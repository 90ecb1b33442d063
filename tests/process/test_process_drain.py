"""`flover drain` with engines in every state: busy, loading, hung, dead, restarted, several, none, another user's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_host import Host, wait_until
from recording_front import Recorder, request

from flover_backend import draining
from flover_backend.config import ModelJson
from flover_backend.draining import ServerDrain
from flover_backend.errors import ConfigError
from flover_backend.observer import find_engines
from flover_backend.runtime_dir import directories_of, process_user
from flover_backend.server_processes import check_server, engines_of

CUT = ("UNAVAILABLE", "the server shut down before the request was finished", "shutdown")
NOBODY = 65534


@pytest.fixture(autouse=True)
def no_other_servers(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command without --pid looks where this test's engines are, and nowhere else."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))


@pytest.fixture
def second_host(tmp_path: Path) -> Iterator[Host]:
    """Another server of the same user."""
    (tmp_path / "second").mkdir()
    host = Host(tmp_path / "second")
    yield host
    host.end()


def start_drain(*arguments: object, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flover_backend.drain", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | more)


def end(command: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and what it said."""
    _, said = command.communicate(timeout=120)
    return command.returncode, said


def drain(*arguments: object, **more: str) -> tuple[int, str]:
    """Exit status and what it said."""
    return end(start_drain(*arguments, **more))


def busy(host: Host, max_tokens: int = 1000, **config: object) -> tuple[Recorder, int]:
    """A front with one running request, and its key."""
    client, recorder = host.connect(config=ModelJson(**config)), Recorder()  # type: ignore[arg-type]
    client.start(recorder)
    running = request(client, [1], max_tokens=max_tokens)
    client.submit(running)
    recorder.wait(lambda: recorder.tokens, "tokens")
    return recorder, running.key


def drain_here(host: Host, timeout_s: float | None) -> tuple[ServerDrain, str]:
    """In this process; what it told."""
    said: list[str] = []
    drain = ServerDrain(lambda: find_engines(host.server.pid), timeout_s, "a test", said.append)
    drain.run()
    return drain, "\n".join(said)


def test_every_engine_of_the_server_is_told_and_the_earliest_deadline_counts(host: Host) -> None:
    host.steer(step_s=0.001)
    short, short_key = busy(host, max_tokens=100)
    host.steer(step_s=0.1)
    long, long_key = busy(host, max_rows=3)
    patient = start_drain("--pid", host.server.pid, "--timeout", 300)
    short.wait_finished(short_key)
    long.wait(lambda: long.statuses, "the drain")
    assert not long.ended
    assert patient.poll() is None
    for status, said in (drain("--timeout", 0), end(patient)):
        assert status == 0
        assert said.count("model flover v1 (engine ") == 2
        assert "drained: 0 requests finished, 1 were ended" in said
    assert long.ended[long_key] == CUT


def test_without_a_timeout_each_engine_has_its_own(host: Host) -> None:
    host.steer(step_s=0.005)
    recorder, key = busy(host, drain_timeout_s=0.1)
    status, said = drain()
    recorder.wait_ended(key)
    assert recorder.ended[key] == CUT
    assert (status, "0 requests finished, 1 were ended" in said) == (0, True)
    status, said = drain()
    assert (status, "0 requests finished, 1 were ended" in said) == (0, True), "a second drain finds it drained"


def test_of_several_servers_one_is_to_be_named_or_all(host: Host, second_host: Host) -> None:
    first, second = host.attach()[1], second_host.attach()[1]
    pids = sorted((host.server.pid, second_host.server.pid))
    status, said = drain()
    assert status == 1
    assert said == f"flover: this user has 2 servers, {pids[0]}, {pids[1]}: give --pid or --all\n"
    assert not first.statuses and not second.statuses
    status, said = drain("--all", "--timeout", 5)
    assert (status, said.count("drained: 0 requests finished, 0 were ended")) == (0, 2)
    for recorder in (first, second):
        recorder.wait(lambda recorder=recorder: recorder.statuses and recorder.statuses[-1].draining, "the status")


def test_an_engine_that_loads_has_nothing_to_finish_and_never_takes_a_request(host: Host) -> None:
    host.steer(load_s=2.0)
    attached: list[Recorder] = []
    thread = threading.Thread(target=lambda: attached.append(host.attach()[1]))
    thread.start()
    wait_until(lambda: find_engines(host.server.pid), "the engine's description")
    done, said = drain_here(host, None)
    assert not attached, "nobody waits for a load"
    assert [one.is_loading and one.is_clean for one in done.drains] == [True]
    assert "still loading, no request runs; it will take none" in said
    thread.join()
    attached[0].wait(lambda: attached[0].statuses, "the status")
    assert attached[0].statuses[0].draining


@pytest.mark.parametrize("timeout_s", [None, 0.0])
def test_an_engine_that_hangs_is_named_in_bounded_time(
    host: Host, monkeypatch: pytest.MonkeyPatch, timeout_s: float | None
) -> None:
    """The times are shortened here; tests/live has them whole."""
    monkeypatch.setattr(draining, "SILENCE_S", 0.5)
    busy(host)
    (engine,) = host.engine_pids()
    os.kill(engine, signal.SIGSTOP)
    try:
        done, said = drain_here(host, timeout_s)
    finally:
        os.kill(engine, signal.SIGCONT)
    assert [one.is_clean for one in done.drains] == [False]
    assert f"(engine {engine}): cannot drain: it does not answer: does it hang?" in said


def test_one_that_hangs_does_not_keep_another_from_its_drain(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "SILENCE_S", 0.5)
    busy(host)
    (hung,) = host.engine_pids()
    recorder, key = busy(host, max_tokens=20, max_rows=3)
    os.kill(hung, signal.SIGSTOP)
    try:
        done, said = drain_here(host, 30.0)
    finally:
        os.kill(hung, signal.SIGCONT)
    recorder.wait_finished(key)
    assert sorted(one.is_clean for one in done.drains) == [False, True]
    assert "drained: " in said


def test_an_engine_that_dies_meanwhile_and_the_one_after_it(host: Host) -> None:
    host.steer(step_s=0.005)
    recorder, _ = busy(host)
    (engine,) = host.engine_pids()
    newcomers: list[Recorder] = []

    def die_and_come_back() -> None:
        recorder.wait(lambda: recorder.statuses, "the drain")
        os.kill(engine, signal.SIGKILL)
        recorder.wait(lambda: recorder.failed, "the failure")
        newcomers.append(host.attach("newcomer")[1])

    thread = threading.Thread(target=die_and_come_back)
    thread.start()
    done, said = drain_here(host, 60.0)
    thread.join()
    newcomers[0].wait(lambda: newcomers[0].statuses, "the newcomer's status")
    assert newcomers[0].statuses[0].draining
    assert [one.is_gone for one in done.drains] == [True, False]
    assert all(one.is_clean for one in done.drains)
    assert "the engine has ended, nothing of it runs" in said


def test_files_of_a_dead_engine_are_no_engine(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody starts another: how long one is waited for is shortened here."""
    monkeypatch.setattr(draining, "SUCCESSOR_S", 0.2)
    host.spawn_front("front").engine_pid()
    (engine,) = host.engine_pids()
    os.kill(host.fronts[0].process.pid, signal.SIGSTOP)  # it would tidy up
    os.kill(engine, signal.SIGKILL)
    done, said = drain_here(host, 0.0)
    assert [one.is_gone and one.is_clean for one in done.drains] == [True]
    assert "the engine has ended, nothing of it runs" in said


def test_a_server_without_an_engine_has_nothing_to_drain(tmp_path: Path) -> None:
    server = tmp_path / "tritonserver"
    server.symlink_to("/bin/sleep")
    with subprocess.Popen([server, "60"]) as process:
        wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "tritonserver\n", "its name")
        status, said = drain("--pid", process.pid)
        assert process.poll() is None
        process.kill()
    assert (status, said) == (0, f"flover: no engine of this backend in server {process.pid}: nothing to drain\n")
    status, said = drain("--pid", process.pid)
    assert status == 1
    assert f"no process {process.pid} is to be seen from here" in said


def test_what_is_no_server_is_refused(host: Host) -> None:
    status, said = drain("--pid", host.server.pid)
    assert status == 1
    assert f"process {host.server.pid} is no tritonserver and has no engine" in said
    for arguments in (("--timeout", "-1"), ("--pid", 1, "--all"), ("now",)):
        assert drain(*arguments)[0] == 2


def test_an_interrupted_command_leaves_the_drain_to_the_engine(host: Host) -> None:
    host.steer(step_s=0.1)
    recorder, key = busy(host)
    command = start_drain()
    recorder.wait(lambda: recorder.statuses, "the drain")
    command.send_signal(signal.SIGTERM)
    assert end(command) == (130, "flover: stopped\n")
    assert not recorder.ended
    assert drain("--timeout", 0)[0] == 0
    assert recorder.ended[key] == CUT


def test_engines_are_found_by_the_servers_own_environment(host: Host, tmp_path: Path) -> None:
    """The server has an XDG_RUNTIME_DIR and the command none, as in a hook or a login as root."""
    recorder = host.attach()[1]
    status, said = drain("--pid", host.server.pid, XDG_RUNTIME_DIR="")
    assert (status, "drained: 0 requests finished, 0 were ended" in said) == (0, True)
    recorder.wait(lambda: recorder.statuses, "the status")


def test_a_directory_that_others_may_write_to_is_not_looked_into(host: Host) -> None:
    host.attach()
    assert len(engines_of(host.server.pid)) == 1
    host.runtime_dir.chmod(0o777)
    assert host.runtime_dir not in directories_of(host.server.pid)
    assert engines_of(host.server.pid) == []
    host.runtime_dir.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_users_engine_is_roots_to_drain_and_nobodys(host: Host, tmp_path: Path) -> None:
    os.seteuid(NOBODY)
    try:
        with pytest.raises(ConfigError, match=f"process {host.server.pid} runs as user id 0, this as {NOBODY}"):
            check_server(host.server.pid)
    finally:
        os.seteuid(0)
    # NOTE: not Popen's `user`, which forks: gRPC's threads of this process then may end the child before it is `sleep`.
    as_nobody = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", "sleep", "60"]
    with subprocess.Popen(as_nobody, env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}) as process:
        wait_until(lambda: process_user(process.pid) == NOBODY, "the process of another user")
        theirs = tmp_path / f"flover-{NOBODY}"
        theirs.mkdir(mode=0o700)
        assert theirs not in directories_of(process.pid), "it is not theirs yet"
        os.chown(theirs, NOBODY, NOBODY)
        wait_until(lambda: theirs in directories_of(process.pid), "root looks into it")
        process.kill()


def test_a_process_of_another_namespace_is_drained_from_inside(host: Host) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "sleep", "60"]
    with subprocess.Popen(unshare) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: process.poll() is not None or children.read_text(), "the child")
        if process.poll() is not None:
            pytest.skip("this machine lets no user make a process namespace")
        inner = int(children.read_text())
        with pytest.raises(ConfigError, match=f"process {inner} lives in a process namespace of its own, as 1: run"):
            check_server(inner)
        process.kill()
