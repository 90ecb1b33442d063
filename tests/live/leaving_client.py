"""A program that sends requests over one gRPC connection, says when their first answer is there, and never ends.

The first has its first answer before the others are sent: which of several that come at once get rows is not said.

`leaving_client.py URL MODE REQUEST...`: each request is JSON (prompt ids, parameters, stream). MODE: `streams`, each
request on a stream of its own; `one`, all on one stream; `half`, as `one`, the sending side closed after the last.
Tests kill it.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc


def request_of(prompt_ids: list[int], parameters: dict[str, Any], stream: bool) -> Any:
    """Raw, so that nothing of tritonclient's own handling of streams is in the way."""
    request = service_pb2.ModelInferRequest(model_name="flover")
    contents = {
        "input_ids": ("INT32", {"int_contents": prompt_ids}),
        "stream": ("BOOL", {"bool_contents": [stream]}),
        "sampling_parameters": ("BYTES", {"bytes_contents": [json.dumps(parameters).encode()]}),
    }
    for name, (datatype, content) in contents.items():
        (values,) = content.values()
        request.inputs.add(name=name, datatype=datatype, shape=[len(values)], contents=content)
    return request


def sent(requests: list[Any], half_close: bool, answered: threading.Event) -> Iterator[Any]:
    yield requests[0]
    if len(requests) > 1:
        answered.wait()
        yield from requests[1:]
    if not half_close:
        threading.Event().wait()


def main() -> None:
    url, mode, *given = sys.argv[1:]
    requests = [request_of(*json.loads(one)) for one in given]
    stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(url))
    groups = [[request] for request in requests] if mode == "streams" else [requests]
    answered = threading.Event()
    first = stub.ModelStreamInfer(sent(groups[0], mode == "half", answered))
    print("sent", flush=True)
    print(next(first).error_message or "answered", flush=True)
    answered.set()
    others = [stub.ModelStreamInfer(sent(group, mode == "half", answered)) for group in groups[1:]]
    for answer in others:
        print(next(answer).error_message or "answered", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
