"""Loads on a running server: one engine whatever the number of fronts, reloads, and loads that fail by name."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_server import ROOT, LiveServer, StartServer, command_line, is_running, runtime_files, wait_for
from triton_client import Call, arrays_of, ask, ids_of, post

from flover_backend.engine_files import described_engines

GREEDY = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
BUNDLED = ROOT / "flover_backend" / "bundled" / "llama-demo"


@pytest.fixture(scope="module")
def operated(start_server: StartServer) -> LiveServer:
    """Four fronts; the tests load and unload what they like on it."""
    running = start_server(instances=4)
    running.wait_ready()
    return running


def engines_of(server: LiveServer) -> list[int]:
    """An engine outlives the front that started it, so the process tree is not where to look."""
    pids = [description.engine_pid for _, description in described_engines(server.process.pid)]
    assert all("flover_backend.engine.process" in command_line(pid) for pid in pids)
    return pids


def fronts_of(server: LiveServer) -> list[int]:
    return [pid for pid in server.descendants() if "triton_python_backend_stub" in command_line(pid)[0]]


def repository_call(server: LiveServer, action: str, model: str = "flover") -> tuple[int, str]:
    return post(f"{server.http_url}/v2/repository/models/{model}/{action}", {})


def load(server: LiveServer, model: str = "flover") -> None:
    status, text = repository_call(server, "load", model)
    assert status == 200, text


def configure(server: LiveServer, content: dict[str, Any], model: str = "flover") -> None:
    (server.folder / "models" / model / "1" / "model.json").write_text(json.dumps(content))


def test_four_fronts_share_one_engine(operated: LiveServer) -> None:
    assert len(fronts_of(operated)) == 4
    (engine,) = engines_of(operated)
    assert engine in operated.descendants()
    runs = [ids_of(ask(operated.grpc_url, [5, 6, 7], GREEDY)) for _ in range(8)]
    assert runs[1:] == runs[:-1]


@pytest.mark.parametrize("count", [1, 2])
def test_so_do_fewer_after_a_reload_and_the_engine_is_kept(operated: LiveServer, count: int) -> None:
    """Only the number of fronts changes, not what the engine is made from."""
    engines = engines_of(operated)
    config = operated.folder / "models" / "flover" / "config.pbtxt"
    shipped = (ROOT / "model_repository" / "flover" / "config.pbtxt").read_text()
    config.write_text(shipped.replace("count: 1", f"count: {count}"))
    load(operated)
    wait_for(lambda: len(fronts_of(operated)) == count)
    assert engines_of(operated) == engines
    assert len(ids_of(ask(operated.grpc_url, [5, 6, 7], GREEDY))) == 6


def test_a_changed_configuration_gets_an_engine_of_its_own_and_streams_go_on(operated: LiveServer) -> None:
    (old,) = engines_of(operated)
    parameters = {"temperature": 0, "max_tokens": 1500, "ignore_eos": True}
    running = Call(operated.grpc_url, arrays_of([5, 6, 7], parameters, stream=True))
    answers = [running.next()]
    configure(operated, {"max_rows": 3})
    load(operated)
    answers += running.rest()
    assert not answers[-1].error
    assert len(ids_of(answers)) == 1500
    wait_for(lambda: not is_running(old), timeout_s=30)
    (new,) = engines_of(operated)
    assert new != old
    (answer,) = ask(operated.grpc_url, [5], {"n": 4})
    assert "1 .. 3" in answer.error
    assert len(runtime_files(operated)) == 4  # socket, lock, description and load of the new one


def no_directory(folder: Path) -> dict[str, Any]:
    return {"model": str(folder / "missing")}


def unknown_key(folder: Path) -> dict[str, Any]:
    return {"max_rowz": 1}


def bad_value(folder: Path) -> dict[str, Any]:
    return {"block_size": 17}


def truncated(folder: Path) -> dict[str, Any]:
    shutil.copytree(BUNDLED, folder / "truncated", dirs_exist_ok=True)
    weights = folder / "truncated" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    return {"model": str(folder / "truncated")}


def other_kind(folder: Path) -> dict[str, Any]:
    shutil.copytree(BUNDLED, folder / "other", dirs_exist_ok=True)
    config = folder / "other" / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "GPT2LMHeadModel").replace('"llama"', '"gpt2"'))
    return {"model": str(folder / "other")}


def no_room(folder: Path) -> dict[str, Any]:
    return {"kv_cache_tokens": 64}


@pytest.mark.parametrize(
    ("make", "fronts", "said"),
    [
        (unknown_key, 1, ("max_rowz", "max_rows")),
        (bad_value, 1, ("block_size", "17")),
        (no_directory, 2, ("missing", "no directory")),
        (truncated, 2, ("model.safetensors",)),
        pytest.param(*(other_kind, 1, ("config.json", "GPT2LMHeadModel", "LlamaForCausalLM")), marks=pytest.mark.slow),
        pytest.param(*(no_room, 1, ("kv_cache_tokens 64", "max_model_len 2048")), marks=pytest.mark.slow),
    ],
    ids=lambda entry: getattr(entry, "__name__", ""),
)
def test_a_load_that_fails_says_why_and_leaves_nothing(
    operated: LiveServer, tmp_path: Path, make: Callable[[Path], dict[str, Any]], fronts: int, said: tuple[str, ...]
) -> None:
    processes, files = operated.descendants(), runtime_files(operated)
    broken = operated.folder / "models" / "broken"
    shutil.copytree(ROOT / "model_repository" / "flover", broken, dirs_exist_ok=True)
    config = (broken / "config.pbtxt").read_text()
    (broken / "config.pbtxt").write_text(config.replace('"flover"', '"broken"').replace("count: 1", f"count: {fronts}"))
    configure(operated, make(tmp_path), "broken")
    status, text = repository_call(operated, "load", "broken")
    assert status == 400
    assert all(part in text for part in said), text
    wait_for(lambda: [pid for pid in operated.descendants() if pid not in processes] == [])
    assert runtime_files(operated) == files
    assert len(ids_of(ask(operated.grpc_url, [5, 6, 7], GREEDY))) == 6


def test_a_reload_that_fails_leaves_the_old_one_serving(operated: LiveServer) -> None:
    processes = operated.descendants()
    configure(operated, {"max_rowz": 1})
    status, text = repository_call(operated, "load")
    assert status == 400
    assert "max_rowz" in text
    assert len(ids_of(ask(operated.grpc_url, [5, 6, 7], GREEDY))) == 6
    wait_for(lambda: [pid for pid in operated.descendants() if pid not in processes] == [])


@pytest.mark.slow
def test_an_open_stream_keeps_the_old_version_s_fronts_but_not_its_engine(operated: LiveServer) -> None:
    """24.10 keeps a version as long as a gRPC stream is open that has had an answer of it."""
    configure(operated, {"max_rows": 7})
    load(operated)
    wait_for(lambda: len(engines_of(operated)) == 1, timeout_s=30)
    time.sleep(3)  # an engine ends with the last of its fronts' connections, its fronts a moment later
    (old,), fronts = engines_of(operated), fronts_of(operated)
    call = Call(operated.grpc_url, arrays_of([5, 6, 7], GREEDY))
    assert call.next().final
    configure(operated, {"max_rows": 8})
    load(operated)
    assert is_running(old) and len(engines_of(operated)) == 2
    assert len(ids_of(ask(operated.grpc_url, [5, 6, 7], GREEDY))) == 6
    wait_for(lambda: not is_running(old), timeout_s=60)
    assert all(is_running(front) for front in fronts)
    assert len(ids_of(ask(operated.grpc_url, [5, 6, 7], GREEDY))) == 6
    call.half_close()
    wait_for(lambda: not any(is_running(front) for front in fronts), timeout_s=60)
    assert len(engines_of(operated)) == 1
    assert len(ids_of(ask(operated.grpc_url, [5, 6, 7], GREEDY))) == 6


def test_an_unload_ends_fronts_and_engine(operated: LiveServer) -> None:
    (engine,) = engines_of(operated)
    status, _ = repository_call(operated, "unload")
    assert status == 200
    wait_for(lambda: operated.descendants() == [])
    wait_for(lambda: not is_running(engine))
    assert runtime_files(operated) == []
    configure(operated, {})
    load(operated)
    assert len(engines_of(operated)) == 1
    assert len(ids_of(ask(operated.grpc_url, [5, 6, 7], GREEDY))) == 6


def test_an_idle_server_that_is_killed_leaves_nothing_behind(operated: LiveServer) -> None:
    """The last test of this file: the server is gone after it."""
    children = operated.descendants() + engines_of(operated)
    assert len(children) >= 2
    named = [argument for pid in fronts_of(operated) for argument in command_line(pid) if argument]
    regions = [path for path in Path("/dev/shm").iterdir() if path.name in named]
    assert regions
    assert len(runtime_files(operated)) == 4
    operated.process.kill()
    operated.process.wait()
    wait_for(lambda: not [pid for pid in children if is_running(pid)], timeout_s=5)
    wait_for(lambda: not [path for path in regions if path.exists()] and not runtime_files(operated), timeout_s=5)
