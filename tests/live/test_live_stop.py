"""What Triton 24.10 does by itself, without a drain: a bare SIGTERM, an unload, each amid a stream."""

from __future__ import annotations

import urllib.error

import pytest
from live_server import LiveServer, StartServer, runtime_files, wait_for
from triton_client import Answer, Call, arrays_of, ask, ids_of, post

LONG = {"temperature": 0, "max_tokens": 1200, "ignore_eos": True}

Streaming = tuple[LiveServer, Call, Answer]
"""A server with a stream, and the stream's first answer."""


@pytest.fixture
def streaming(start_server: StartServer) -> Streaming:
    server = start_server(instances=2)
    server.wait_ready()
    call = Call(server.grpc_url, arrays_of([6], LONG, stream=True))
    return server, call, call.next()


@pytest.mark.slow
def test_a_bare_sigterm_lets_streams_finish_and_new_requests_miss_the_model(
    streaming: Streaming,
) -> None:
    server, call, first = streaming
    server.process.terminate()
    wait_for(lambda: "no available version" in ask(server.grpc_url, [8], {"max_tokens": 1})[-1].error)
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        post(f"{server.http_url}/v2/models/flover/generate", {"input_ids": [8]})
    assert len(ids_of([first, *call.rest()])) == LONG["max_tokens"]
    assert server.wait_ended() == 0
    wait_for(lambda: runtime_files(server) == [])


@pytest.mark.slow
def test_an_unload_lets_streams_finish_and_new_requests_miss_the_model(
    streaming: Streaming,
) -> None:
    server, call, first = streaming
    assert post(f"{server.http_url}/v2/repository/models/flover/unload", {})[0] == 200
    (late,) = ask(server.grpc_url, [8], {"max_tokens": 1})
    assert "no available version" in late.error
    assert server.descendants(), "fronts and engine live as long as the stream"
    assert len(ids_of([first, *call.rest()])) == LONG["max_tokens"]
    wait_for(lambda: server.descendants() == [] and runtime_files(server) == [], timeout_s=60)
    server.stop()
