"""The log of a live server at its default level: nothing of what clients say, write or are told, and no secret."""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.error
import urllib.request
import uuid

import grpc
import hostile_grpc
import pytest
from live_metrics import wait_idle
from live_server import LiveServer, wait_for
from triton_client import Call, arrays_of, ask, text_of
from tritonclient.grpc import service_pb2_grpc


@pytest.fixture
def mark() -> str:
    """What no log may hold; a word that fits into 256 bytes as a stop string does."""
    return f"SECRET{uuid.uuid4().hex}"


def test_nothing_of_a_request_is_in_the_log(server: LiveServer, mark: str) -> None:
    before = len(server.log())
    grpc_requests(server, mark)
    raw_requests(server, mark)
    http_requests(server, mark)
    told = text_of(ask(server.grpc_url, f"{mark} In the beginning", {"max_tokens": 40, "ignore_eos": True}))
    wait_idle(server)
    Call(server.grpc_url, arrays_of([5], {"max_tokens": 1}), request_id="the-last-one").rest()
    wait_for(lambda: "the-last-one" in server.log()[before:], timeout_s=30)
    said = server.log()[before:]
    assert "reason=" in said, "requests are logged, so this looks at the right log"
    assert mark not in said
    assert mark.lower() not in said.lower()
    assert told.decode()[len(mark) :][:30] not in said


def grpc_requests(server: LiveServer, mark: str) -> None:
    """Good ones, and refused ones, with the mark wherever a client can put it."""
    url = server.grpc_url
    ask(url, mark, {"max_tokens": 2})
    ask(url, mark * 2000, {"max_tokens": 2})
    ask(url, mark.encode() + b"\xff", {"max_tokens": 2})
    ask(url, "Hi", {"max_tokens": 2, "stop": [mark]})
    ask(url, "Hi", {"max_tokens": 2, "stop": [mark * 20]})
    for key in ("temperature", "seed", "logit_bias", "n", mark):
        ask(url, "Hi", {key: mark})
    Call(url, arrays_of("Hi", {"max_tokens": 1}), parameters={mark: "1"}).rest()
    Call(url, arrays_of("Hi", {"max_tokens": 1}), parameters={"stop": mark}).rest()
    ask(url, "Hi", sampling_parameters=arrays_of(f'{{"{mark}": ')["text_input"])


def raw_requests(server: LiveServer, mark: str) -> None:
    """What Triton refuses before the backend sees it: names, types and bytes that are wrong."""
    with grpc.insecure_channel(server.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for change in ("input", "datatype", "raw", "parameter"):
            request = hostile_grpc.good()
            if change == "input":
                request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
                request.raw_input_contents.append(mark.encode())
            elif change == "datatype":
                request.inputs[0].datatype = mark
            elif change == "raw":
                request.raw_input_contents[0] = mark.encode()
            else:
                request.parameters["max_tokens"].string_param = mark
            metadata = (("authorization", f"Bearer {mark}"), ("x-key", mark))
            assert list(stub.ModelStreamInfer(iter([request]), timeout=60, metadata=metadata))
        serialized = hostile_grpc.good().SerializeToString() + mark.encode()
        with contextlib.suppress(grpc.RpcError):
            list(channel.stream_stream(hostile_grpc.STREAM)(iter([serialized]), timeout=60))


def http_requests(server: LiveServer, mark: str) -> None:
    bodies = (
        json.dumps({"text_input": mark, "max_tokens": 2}),
        json.dumps({"text_input": "Hi", "max_tokens": mark}),
        json.dumps({"text_input": "Hi", mark: mark}),
        f'{{"text_input": "{mark}',
        f"{mark}",
        f'{{"text_input": {mark}}}',
    )
    for path in ("generate", "generate_stream", "infer"):
        for body in bodies:
            headers = {"Authorization": f"Bearer {mark}", "X-Api-Key": mark, "Cookie": mark}
            url = f"{server.http_url}/v2/models/flover/{path}?key={mark}"
            request = urllib.request.Request(url, body.encode(), headers)
            with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=60) as connection:
        connection.sendall(f"{mark} /{mark} HTTP/1.1\r\nHost: {mark}\r\nConnection: close\r\n\r\n".encode())
        connection.recv(4096)
