"""A real tritonserver, started and ended by `TritonServer`, with a model of three lines."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from process_watch import is_alive, session_members, wait_for_end

from flover_backend import libpython, server_files
from flover_backend.config import ModelJson
from flover_backend.errors import ConfigError
from flover_backend.lifeline import shared_memory_regions
from flover_backend.server import ServerFailed, ServerOptions, TritonServer, choose_ports


def test_two_servers_run_at_once_and_leave_nothing(echo_model: Path) -> None:
    shown: list[str] = []
    options = ServerOptions(name="first", instances=2, show=shown.append)
    with TritonServer(options) as first, TritonServer(ServerOptions(name="second")) as second:
        pids = session_members(first.pid)
        folders = [first.folder, second.folder]
        assert len(pids) == 3  # the server and two stubs
        assert first.is_ready()
        assert second.is_ready()
        assert len({first.http_url, second.http_url, first.grpc_url, second.grpc_url}) == 4
        with urllib.request.urlopen(first.metrics_url, timeout=5) as answer:
            assert b"nv_inference_count" in answer.read()
    assert [pid for pid in pids if is_alive(pid)] == []
    assert [folder for folder in folders if folder.exists()] == []
    assert shown == []


def test_it_listens_on_loopback_alone_and_logs_to_a_file(echo_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    with TritonServer(ServerOptions(log_file=path)) as server:
        inodes = {os.readlink(path) for path in Path(f"/proc/{server.pid}/fd").iterdir() if path.is_symlink()}
        listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        listening += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
        own = [words[1] for words in listening if words[3] == "0A" and f"socket:[{words[9]}]" in inodes]
    assert own
    assert [address for address in own if "0100007F:" not in address] == []
    assert "Started GRPCInferenceService" in path.read_text()


def test_a_model_that_fails_to_load_is_one_line_with_the_reason(echo_model: Path) -> None:
    server = TritonServer(ServerOptions(config=ModelJson(model="broken")))
    with pytest.raises(ServerFailed, match=r"^the server ended with 1: model broken: not a directory$"), server:
        pass
    assert not server.folder.name
    server.stop()


def test_a_server_that_does_not_end_is_killed_with_its_stubs(echo_model: Path) -> None:
    server = TritonServer(ServerOptions())
    server.start()
    server.wait_ready()
    pids = session_members(server.pid)
    (region,) = shared_memory_regions(server.pid)
    assert Path("/dev/shm", region).exists()
    os.kill(server.pid, signal.SIGSTOP)
    server.stop(timeout_s=0.2)
    assert not Path("/dev/shm", region).exists()
    assert wait_for_end(pids) == []


def test_a_stop_that_is_interrupted_leaves_nothing(echo_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = TritonServer(ServerOptions())
    server.start()
    server.wait_ready()
    pids, folder = session_members(server.pid), server.folder
    (region,) = shared_memory_regions(server.pid)

    def interrupted(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        monkeypatch.undo()
        raise KeyboardInterrupt

    os.kill(server.pid, signal.SIGSTOP)
    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.stop()
    assert not folder.exists() and not Path("/dev/shm", region).exists()
    assert wait_for_end(pids) == []


def test_it_ends_with_the_command_that_started_it(echo_model: Path) -> None:
    code = f"""
import pathlib, sys
from flover_backend import libpython, server_files
server_files.MODEL_PY = pathlib.Path({str(echo_model)!r})
from flover_backend.lifeline import shared_memory_regions
from flover_backend.server import ServerOptions, TritonServer
server = TritonServer(ServerOptions())
server.start(); server.wait_ready()
print(server.pid, server.folder, flush=True)
sys.stdin.read()
"""
    command = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert command.stdout is not None
    pid, folder = command.stdout.readline().split()
    pids = session_members(int(pid))
    assert len(pids) == 2
    command.kill()
    command.wait()
    assert wait_for_end(pids) == []
    server_files.shutil.rmtree(folder)


def test_a_taken_port_names_the_flag() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ServerFailed, match=rf"port {port}: .*Give another --grpc-port, or 0 for any"):
            choose_ports(ServerOptions(grpc_port=port))


def test_a_port_out_of_range_is_refused() -> None:
    with pytest.raises(ServerFailed, match="port 70000"):
        choose_ports(ServerOptions(http_port=70000))


def test_a_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="nvidia-pytriton is not installed"):
        server_files.find_triton()


def test_a_missing_libpython_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libpython, "candidate_folders", list)
    with pytest.raises(ConfigError, match=r"libpython3\.11\.so\.1\.0 of .* was not found"):
        server_files.find_triton()


def test_a_name_that_cannot_be_a_folder_is_refused(echo_model: Path) -> None:
    server = TritonServer(ServerOptions(config=ModelJson(model=str(echo_model)), name="a/b"))
    with pytest.raises(ConfigError, match="'a/b' cannot be the name of a model; allowed: "), server:
        pass
    assert server.folder == Path()


def test_a_log_file_that_cannot_be_written_leaves_no_server(echo_model: Path, tmp_path: Path) -> None:
    server = TritonServer(ServerOptions(config=ModelJson(model=str(echo_model)), log_file=tmp_path / "no" / "x.log"))
    with pytest.raises(ConfigError, match="cannot be written: No such file"), server:
        pass
    assert server.folder == Path()


def test_the_repository_holds_name_count_and_changed_keys(echo_model: Path, tmp_path: Path) -> None:
    repository = server_files.lay_out_repository(tmp_path / "run", "chat", 3, ModelJson(max_rows=7, reorder="none"))
    config = (repository / "chat" / "config.pbtxt").read_text()
    assert "count: 3" in config
    assert json.loads((repository / "chat" / "1" / "model.json").read_text()) == {"max_rows": 7, "reorder": "none"}


@pytest.mark.parametrize(("device", "expected"), [("cpu", 1), ("cuda", 4)])
def test_the_number_of_fronts_suits_the_device(device: str, expected: int) -> None:
    assert ServerOptions(config=ModelJson(device=device)).instance_count() == expected  # type: ignore[arg-type]
    assert ServerOptions(config=ModelJson(device=device), instances=2).instance_count() == 2  # type: ignore[arg-type]
