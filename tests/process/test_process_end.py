"""How engines end, on every path: a failed load, a crash, a server that is killed; nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_host import Host, is_running, is_stopped, wait_until
from recording_front import request

from flover_backend.config import ModelJson
from flover_backend.errors import ConfigError, EngineFailed
from flover_backend.runtime_dir import process_start_ticks

GONE_WITHIN_S = 5.0


def children(parent: int) -> list[int]:
    return [
        int(path.name)
        for path in Path("/proc").glob("[0-9]*")
        if is_running(int(path.name)) and (path / "stat").read_text().rpartition(")")[2].split()[1] == str(parent)
    ]


@pytest.mark.parametrize(
    ("steering", "error", "text"),
    [
        ({"config_error": "rope_type yarn; allowed are default and llama3"}, "ConfigError", "rope_type yarn"),
        ({"load_error": "no such kernel"}, "EngineFailed", "the engine failed: RuntimeError: no such kernel"),
        ({"load_exit": 7}, "EngineFailed", "ended before it was ready; its output is in the server's log"),
    ],
    ids=["configuration", "exception", "sudden death"],
)
def test_a_failed_load_reaches_every_waiting_front(
    host: Host, steering: dict[str, object], error: str, text: str
) -> None:
    host.steer(load_s=1.0, **steering)
    fronts = [host.spawn_front(f"front_{number}") for number in range(3)]
    for front in fronts:
        line = front.line()
        assert line.startswith(f"error {error}: ")
        assert text in line
        assert front.process.wait(30) == 3
    wait_until(lambda: host.files() == [], "no files left")
    host.steer()
    host.connect()


def test_the_front_that_started_a_dying_engine_knows_its_exit_code(host: Host) -> None:
    host.steer(load_exit=7)
    with pytest.raises(EngineFailed, match=r"\(exit code 7\) ended before it was ready"):
        host.connect()
    assert host.files() == []


def test_engine_python_that_does_not_exist_is_a_configuration_error(host: Host) -> None:
    with pytest.raises(ConfigError, match="engine_python /no/such/python does not start"):
        host.connect(config=ModelJson(engine_python="/no/such/python"))
    assert host.files() == []


def test_engine_python_that_is_no_python(host: Host) -> None:
    with pytest.raises(EngineFailed, match=r"\(exit code 1\) ended before it was ready.* engine_python says which"):
        host.connect(config=ModelJson(engine_python="/bin/false"))


def test_engine_python_is_the_engine_s_interpreter(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nexport MARK=set\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    client = host.connect(config=ModelJson(engine_python=str(wrapper)))
    assert "MARK=set" in Path(f"/proc/{client.info.pid}/environ").read_text().split("\0")


def test_a_crash_in_an_iteration_fails_all_fronts_and_ends_the_engine(host: Host) -> None:
    host.steer(crash_at_step=5, step_s=0.001)
    first, one = host.attach("one")
    _, two = host.attach("two")
    each = request(first, [1], max_tokens=100)
    first.submit(each)
    for recorder in (one, two):
        recorder.wait(lambda recorder=recorder: recorder.failed, "the failure")
        assert recorder.failed == ["the engine failed: RuntimeError: the fake core crashes"]
    assert len(one.tokens[each.key, 0]) == 5
    wait_until(lambda: not is_running(first.info.pid), "the engine's end")
    wait_until(lambda: host.files() == [], "no files left")
    assert host.connect().info.pid != first.info.pid


@pytest.mark.parametrize("phase", ["load", "idle", "decode", "hang"])
def test_a_killed_server_takes_its_engine_with_it(host: Host, phase: str) -> None:
    host.steer(step_s=60.0 if phase == "hang" else 0.01, load_s=60.0 if phase == "load" else 0.0)
    if phase == "load":
        front = host.spawn_front("front")
        wait_until(host.engine_pids, "the engine's description")
    else:
        client, recorder = host.attach()
    (engine,) = host.engine_pids()
    if phase == "decode":
        each = request(client, [1], max_tokens=1000)
        client.submit(each)
        recorder.wait(lambda: recorder.tokens, "tokens")
    if phase == "hang":
        client.submit(request(client, [1]))
    host.kill_server()
    wait_until(lambda: not is_running(engine), "the engine's end", GONE_WITHIN_S)
    assert host.files() == []
    if phase == "load":
        assert front.line().startswith("error EngineFailed")


def test_an_engine_whose_last_front_is_killed_during_the_load_ends(host: Host) -> None:
    host.steer(load_s=60.0)
    front = host.spawn_front("front")
    wait_until(host.engine_pids, "the engine's description")
    (engine,) = host.engine_pids()
    front.end()
    wait_until(lambda: not is_running(engine), "the engine's end", GONE_WITHIN_S)
    assert host.files() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_to_the_process_group_do_not_end_the_engine(host: Host, number: signal.Signals) -> None:
    host.steer(step_s=0.005)
    client, recorder = host.attach()
    each = request(client, [1], max_tokens=20)
    client.submit(each)
    recorder.wait(lambda: recorder.tokens, "tokens")
    os.kill(client.info.pid, number)
    recorder.wait_finished(each.key)
    assert len(recorder.tokens[each.key, 0]) == 20


def test_a_signal_before_the_engine_can_ignore_it_is_harmless(host: Host) -> None:
    host.steer(load_s=0.2)
    front = host.spawn_front("front")
    wait_until(lambda: children(front.process.pid), "the engine's process")
    (engine,) = children(front.process.pid)
    for _ in range(20):
        os.kill(engine, signal.SIGINT)
        time.sleep(0.005)
    assert front.engine_pid() == engine


def test_files_of_what_was_killed_all_at_once_go_when_the_next_engine_starts(host: Host) -> None:
    front = host.spawn_front("front")
    engine = front.engine_pid()
    os.kill(front.process.pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(front.process.pid), "the front's stop")
    os.kill(engine, signal.SIGKILL)
    front.end()
    host.kill_server()
    wait_until(lambda: not is_running(engine), "the engine's end")
    assert len(host.files()) == 3
    host.server = subprocess.Popen(["sleep", "600"])
    host.connect().close()
    assert host.files() == []


def test_a_server_that_is_gone_already_is_an_error(host: Host) -> None:
    host.kill_server()
    with pytest.raises(EngineFailed, match=f"the server process {host.server.pid} is gone"):
        host.connect()
    assert process_start_ticks(host.server.pid) is None
    assert host.files() == []
