"""A server that is killed, in load, idle and decode: its real engine goes, and the GPU's memory with it.

The same runs on the CPU, where there is no memory of a GPU to look at. The server is a stand-in, then Triton's own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engine_host import Host, is_running, wait_until
from live_engine import engine_of
from live_server import TRITON, LiveServer, live_servers, runtime_files, shared_memory_of
from recording_front import Recorder, request
from triton_client import Call, arrays_of

from flover_backend.bundled import path_of
from flover_backend.config import ModelJson
from flover_backend.engine.sizing import free_memory
from flover_backend.errors import EngineFailed

MODEL = "llama-demo"
KV_BYTES = {"cpu": 64 << 20, "cuda": 4 << 30}
CONTEXT_BYTES = 64 << 20
"""More than this is taken of a GPU as soon as a process uses it; memory that is free again may differ by as much."""

on_each_device = pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


class Memory:
    """What is free on a GPU now and was free at first; of a CPU it knows nothing, and all holds."""

    def __init__(self, kind: str) -> None:
        self._device = torch.device(kind)
        if kind == "cuda":
            torch.zeros(1, device=kind)  # this process's own context, before anything is measured
        self._at_first = self._free()

    def _free(self) -> int:
        return free_memory(self._device) if self._device.type == "cuda" else 0

    def wait_taken(self, num_bytes: int) -> None:
        """By an engine: else its end could not be seen."""
        if self._device.type == "cuda":
            wait_until(lambda: self._at_first - self._free() >= num_bytes, f"{num_bytes} bytes of the GPU in use")

    def wait_free_again(self) -> None:
        def is_free() -> bool:
            return self._at_first - self._free() <= CONTEXT_BYTES

        try:
            wait_until(is_free, "the GPU's memory free again")
        except AssertionError as late:
            missing = self._at_first - self._free()
            raise AssertionError(
                f"{late}: {missing} bytes fewer are free than before, though the engine's process is gone. Another "
                "process that has come to use this GPU meanwhile looks the same: run this test alone on it"
            ) from None


@pytest.fixture
def memory(kind: str) -> Memory:
    return Memory(kind)


@on_each_device
@pytest.mark.parametrize("phase", ["load", "idle", "decode"])
def test_nothing_of_a_killed_stand_in_is_left(host: Host, memory: Memory, phase: str, kind: str) -> None:
    config = ModelJson(model=MODEL, device=kind, max_rows=4, kv_cache_bytes=KV_BYTES[kind])
    if phase == "load":
        errors: list[str] = []
        front = threading.Thread(target=_connect_in_vain, args=(host, config, errors))
        front.start()
        wait_until(host.engine_pids, "the engine's description")
        (engine,) = host.engine_pids()
        memory.wait_taken(CONTEXT_BYTES)
    else:
        client, recorder = host.connect("front", config, "", path_of(MODEL)), Recorder()
        client.start(recorder)
        engine = client.info.pid
        memory.wait_taken(KV_BYTES[kind])
    if phase == "decode":
        client.submit(request(client, [5, 6, 7], max_tokens=1000, ignore_eos=True))
        recorder.wait(lambda: recorder.tokens, "tokens")
    assert is_running(engine)
    host.kill_server()
    wait_until(lambda: not is_running(engine), "the engine's end")
    assert host.files() == []
    memory.wait_free_again()
    if phase == "load":
        front.join(60)
        assert len(errors) == 1


def _connect_in_vain(host: Host, config: ModelJson, errors: list[str]) -> None:
    try:
        host.connect("front", config, "", path_of(MODEL))
    except EngineFailed as error:
        errors.append(str(error))


@pytest.fixture
def triton(tmp_path_factory: pytest.TempPathFactory, memory: Memory, kind: str) -> Iterator[LiveServer]:
    if not TRITON.is_dir():
        pytest.skip(f"tritonserver is not installed: there is no {TRITON}")
    with live_servers(tmp_path_factory.mktemp) as start:
        yield start({"model": MODEL, "device": kind, "max_rows": 4, "kv_cache_bytes": KV_BYTES[kind]}, instances=2)


@pytest.mark.slow
@on_each_device
@pytest.mark.parametrize("phase", ["idle", "decode"])
def test_nothing_of_a_killed_tritonserver_is_left(triton: LiveServer, memory: Memory, phase: str, kind: str) -> None:
    triton.wait_ready()
    memory.wait_taken(KV_BYTES[kind])
    if phase == "decode":
        Call(triton.grpc_url, arrays_of([6], {"max_tokens": 1000, "ignore_eos": True}, stream=True)).next()
    pids = [*triton.descendants(), engine_of(triton)]
    regions: list[Path] = [path for pid in pids for path in shared_memory_of(pid)]
    assert regions and all(map(is_running, pids))
    triton.process.kill()
    triton.process.wait()
    wait_until(lambda: not any(map(is_running, pids)), "the end of fronts and engine")
    assert not [path for path in regions if path.exists()]
    assert not runtime_files(triton)
    memory.wait_free_again()
