"""A small client of a live server: one gRPC stream a request, and what came back with its FINAL flags."""

from __future__ import annotations

import json
import queue
import socket
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


@dataclass
class Answer:
    """One response."""

    outputs: dict[str, np.ndarray]
    error: str
    final: bool
    time: float


class Call:
    """One request on a stream of its own."""

    def __init__(self, url: str, arrays: dict[str, np.ndarray], model: str = "flover", **options: Any) -> None:
        """`options`: of tritonclient's async_stream_infer."""
        self._answers: queue.Queue[Answer] = queue.Queue()
        self._client = grpcclient.InferenceServerClient(url)
        self._client.start_stream(self._receive)
        inputs = [_input(name, array) for name, array in arrays.items()]
        self._client.async_stream_infer(model, inputs, **{"enable_empty_final_response": True} | options)

    def _receive(self, result: Any, error: InferenceServerException | None) -> None:
        if error is not None:
            self._answers.put(Answer({}, error.message(), True, time.monotonic()))
            return
        response = result.get_response()
        outputs = {output.name: result.as_numpy(output.name) for output in response.outputs}
        final = response.parameters["triton_final_response"].bool_param
        self._answers.put(Answer(outputs, "", final, time.monotonic()))

    def next(self, timeout_s: float = 60) -> Answer:
        return self._answers.get(timeout=timeout_s)

    def is_silent(self, timeout_s: float) -> bool:
        """Nothing has come, nor comes within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self._answers.empty() and time.monotonic() < deadline:
            time.sleep(0.002)
        return self._answers.empty()

    def has_finished(self, num_tokens: int) -> bool:
        """So many tokens have come, and no error."""
        answers = list(self._answers.queue)
        return not any(answer.error for answer in answers) and len(ids_of(answers)) == num_tokens

    def rest(self) -> list[Answer]:
        """All that is still to come, up to and with FINAL or an error; then the stream is closed and empty."""
        answers = [self.next()]
        while not answers[-1].final:
            answers.append(self.next())
        self._client.stop_stream()
        assert self._answers.empty(), "responses after FINAL"
        return answers

    def half_close(self) -> None:
        """Say that no request will follow; returns when all has come, for `rest` to take."""
        self._client.stop_stream()

    def cancel(self) -> None:
        self._client.stop_stream(cancel_requests=True)


def _input(name: str, array: np.ndarray) -> Any:
    found = grpcclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    found.set_data_from_numpy(array)
    return found


def arrays_of(prompt: str | bytes | list[int], parameters: Any = None, **more: Any) -> dict[str, np.ndarray]:
    """Input tensors: text or ids, the JSON, and others by name."""
    arrays: dict[str, np.ndarray] = {}
    if isinstance(prompt, list):
        arrays["input_ids"] = np.array(prompt, np.int32)
    else:
        arrays["text_input"] = np.array([prompt.encode() if isinstance(prompt, str) else prompt], np.object_)
    if parameters is not None:
        arrays["sampling_parameters"] = np.array([json.dumps(parameters).encode()], np.object_)
    return arrays | {
        name: value if isinstance(value, np.ndarray) else np.array([value]) for name, value in more.items()
    }


def ask(url: str, prompt: str | bytes | list[int], parameters: Any = None, **more: Any) -> list[Answer]:
    """All answers to one request."""
    return Call(url, arrays_of(prompt, parameters, **more)).rest()


def text_of(answers: list[Answer]) -> bytes:
    return b"".join(answer.outputs["text_output"][0] for answer in answers)


def ids_of(answers: list[Answer]) -> list[int]:
    return [token_id for answer in answers for token_id in answer.outputs["output_ids"].tolist()]


def post(url: str, body: dict[str, Any], timeout_s: float = 60) -> tuple[int, str]:
    """(status, body) of an HTTP POST."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def open_http(port: int, path: str, body: dict[str, Any], receive_buffer: int | None = None) -> socket.socket:
    """A connection on which the model was asked over HTTP, and nothing was read; `receive_buffer` in bytes."""
    content = json.dumps(body).encode()
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", port))
    head = f"POST /v2/models/flover/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection
