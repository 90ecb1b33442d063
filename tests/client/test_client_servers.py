"""Servers that end in mid-stream, and a model without a tokenizer: each a server of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from live_server import ROOT, LiveServer, StartServer, live_servers, wait_for

from flover_backend.engine_files import described_engines
from flover_client import AsyncClient, Client, ConnectionFailed, Internal, InvalidArgument, RequestFailed

pytestmark = pytest.mark.slow

PROMPT = "And it came to pass"


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    with live_servers(tmp_path_factory.mktemp) as start_server:
        yield start_server


@pytest.fixture
def started(start: StartServer) -> LiveServer:
    running = start({"max_rows": 8}, instances=2)
    running.wait_ready()
    return running


@pytest.mark.parametrize("is_async", [False, True])
def test_a_server_killed_in_mid_stream(started: LiveServer, is_async: bool) -> None:
    async def read() -> None:
        async with AsyncClient(started.grpc_url) as client:
            async for _ in client.stream(PROMPT, max_tokens=1900, ignore_eos=True):
                if started.process.returncode is None:
                    started.process.kill()

    def read_sync() -> None:
        with Client(started.grpc_url) as client:
            for _ in client.stream(PROMPT, max_tokens=1900, ignore_eos=True):
                started.process.kill()

    with pytest.raises(ConnectionFailed, match=f"the connection to {started.grpc_url} broke") as caught:
        asyncio.run(read()) if is_async else read_sync()
    assert caught.value.code == "UNAVAILABLE"
    with Client(started.grpc_url) as client, pytest.raises(ConnectionFailed, match="no server answers"):
        client.generate(PROMPT)


def test_an_engine_killed_in_mid_stream(started: LiveServer) -> None:
    """A stream that has had tokens is told, by text and code; one that waits for its whole answer gets it."""

    async def read() -> int:
        async with AsyncClient(started.grpc_url) as client:
            return len((await client.generate(PROMPT, max_tokens=1900, ignore_eos=True)).token_ids)

    ((_, description),) = described_engines(started.process.pid)
    with Client(started.grpc_url, timeout_s=60) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: asyncio.run(read()))
        stream = client.stream(PROMPT, max_tokens=1900, ignore_eos=True)
        next(stream)
        os.kill(description.engine_pid, signal.SIGKILL)
        with pytest.raises(Internal, match=r"the engine .*\[INTERNAL\]$") as caught:
            list(stream)
        assert caught.value.code == "INTERNAL"
        assert waiting.result() == 1900


def test_a_server_told_to_stop_in_mid_stream(started: LiveServer) -> None:
    """What runs is finished; who comes then gets one exception."""
    with Client(started.grpc_url, timeout_s=60) as client:
        stream = client.stream(PROMPT, max_tokens=1500, ignore_eos=True)
        count = len(next(stream).token_ids)
        os.kill(started.process.pid, signal.SIGTERM)
        wait_for(lambda: "Timeout 30" in started.log())
        with pytest.raises(RequestFailed) as caught:
            client.generate(PROMPT)
        assert caught.value.code == "UNAVAILABLE", str(caught.value)
        responses = list(stream)
        assert responses[-1].finish_reason == "length"
        assert count + sum(len(response.token_ids) for response in responses) == 1500
    started.wait_ended()


def test_a_model_unloaded_in_mid_stream(started: LiveServer) -> None:
    from triton_client import post

    with Client(started.grpc_url, timeout_s=60) as client:
        stream = client.stream(PROMPT, max_tokens=1500, ignore_eos=True)
        next(stream)
        status, _ = post(f"{started.http_url}/v2/repository/models/flover/unload", {})
        assert status == 200
        wait_for(lambda: not client.is_ready())
        with pytest.raises(RequestFailed) as caught:
            client.generate(PROMPT)
        assert caught.value.code in ("UNAVAILABLE", "NOT_FOUND"), str(caught.value)
        assert list(stream)[-1].finish_reason == "length"


def test_a_model_without_a_tokenizer(start: StartServer, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(ROOT / "flover_backend" / "bundled" / "llama-demo", model)
    for path in model.glob("tokenizer*"):
        path.unlink()
    running = start({"model": str(model), "max_rows": 8})
    running.wait_ready()
    with Client(running.grpc_url, timeout_s=60) as client:
        answer = client.generate([5, 6, 7], max_tokens=9, ignore_eos=True, temperature=0, n=2, logprobs=1)
        assert [len(output.token_ids) for output in answer.outputs] == [9, 9]
        assert [output.text for output in answer.outputs] == ["", ""]
        assert answer.logprobs[0][answer.token_ids[0]].token is None
        streamed = client.stream([5, 6, 7], max_tokens=9, ignore_eos=True, temperature=0)
        assert tuple(token for response in streamed for token in response.token_ids) == answer.token_ids
        with pytest.raises(InvalidArgument, match=r"text_input: this model has no tokenizer\.json"):
            client.generate("x")
