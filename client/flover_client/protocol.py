"""Requests to and responses from Triton's protocol buffers, and gRPC's failures to exceptions. Opens no connection."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from tritonclient.grpc import InferResult, service_pb2

from flover_client.errors import CLASSES, ConnectionFailed, RequestFailed, RequestTimeout, error_of_text
from flover_client.types import Output, Prompt, Response, TokenLogprob

FINAL = "triton_final_response"


def build_request(
    model: str, version: str, prompt: Prompt, *, stream: bool, request_id: str, parameters: Mapping[str, Any]
) -> service_pb2.ModelInferRequest:
    """The request message. Raises TypeError or ValueError for what has no JSON, or is no token id."""
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version, id=request_id)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    if isinstance(prompt, str):
        _add(request, "text_input", "BYTES", _bytes(prompt))
    elif isinstance(prompt, (bytes, bytearray, memoryview)) or not hasattr(prompt, "__len__"):
        # NOTE: bytes are a sequence of integers too, but nobody means them as token ids.
        raise TypeError(f"prompt: got {type(prompt).__name__}; allowed: text as str, or a sequence of token ids")
    else:
        _add(request, "input_ids", "INT32", _int32(prompt), len(prompt))
    _add(request, "sampling_parameters", "BYTES", _bytes(json.dumps(parameters)))
    _add(request, "stream", "BOOL", bytes([stream]))
    flags = ["exclude_input_in_output", "return_finish_reason", "return_num_input_tokens", "return_num_output_tokens"]
    if parameters.get("logprobs", False) is not False:
        flags += ["return_logprobs", "return_cumulative_logprob"]
    for name in flags:
        _add(request, name, "BOOL", b"\x01")
    return request


def parse_response(message: service_pb2.ModelStreamInferResponse) -> Response | None:
    """The response, or None for one that only says that the last has come. Raises what `error_of_text` makes."""
    if message.error_message:
        raise error_of_text(message.error_message)
    response = message.infer_response
    if not response.outputs:
        return None
    result = InferResult(response)
    arrays = {output.name: result.as_numpy(output.name).tolist() for output in response.outputs}
    lengths: list[int] = arrays["num_output_tokens"]
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    outputs = tuple(
        Output(
            text=arrays["text_output"][index].decode() if "text_output" in arrays else "",
            token_ids=tuple(arrays["output_ids"][start : start + length]),
            finish_reason=_finish_reason(arrays["finish_reason"][index]),
            cumulative_logprob=arrays["cumulative_logprob"][index] if "cumulative_logprob" in arrays else None,
            logprobs=_logprobs(arrays["logprobs"][index]) if "logprobs" in arrays else (),
        )
        for index, (start, length) in enumerate(zip(starts, lengths, strict=True))
    )
    return Response(outputs, arrays["num_input_tokens"][0], is_over(message))


def is_over(message: service_pb2.ModelStreamInferResponse) -> bool:
    """True for the last message of a request, an error's too."""
    return bool(message.error_message) or bool(message.infer_response.parameters[FINAL].bool_param)


class Progress:
    """How far a request's stream is: takes its messages in order, and says when it is over."""

    def __init__(self, url: str, timeout_s: float | None) -> None:
        self.is_over = False
        self._url = url
        self._timeout_s = timeout_s
        self._begin = time.monotonic()
        self._has_answered = False

    def take(self, message: service_pb2.ModelStreamInferResponse | None) -> Response | None:
        """The message's response, if it has one; None is a stream's end. Raises `RequestFailed`."""
        self.is_over = message is None or is_over(message)
        response = None if message is None else parse_response(message)
        self._has_answered = self._has_answered or response is not None
        if message is None or (self.is_over and not self._has_answered):
            raise RequestFailed("the server ended the stream before the answer was complete")
        return response

    def break_off(self, error: grpc.RpcError) -> RequestFailed:
        """What to raise for a stream that failed."""
        self.is_over = True
        # NOTE: grpc.aio calls a deadline that passes while it still sends "Internal error from Core".
        is_late = self._timeout_s is not None and time.monotonic() - self._begin >= self._timeout_s
        if is_late or error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return RequestTimeout(f"no complete answer within timeout_s = {self._timeout_s}", "DEADLINE_EXCEEDED")
        return error_of_rpc(error, self._url, answered=self._has_answered)


def error_of_rpc(error: grpc.RpcError, url: str, *, answered: bool) -> RequestFailed:
    """The exception for a stream that broke. `answered`: a response had come before."""
    code, details = error.code(), error.details()
    if code is grpc.StatusCode.UNAVAILABLE:
        what = f"the connection to {url} broke" if answered else f"no server answers at {url}"
        return ConnectionFailed(f"{what} ({details})", "UNAVAILABLE")
    name = "INVALID_ARG" if code is grpc.StatusCode.INVALID_ARGUMENT else code.name
    return CLASSES.get(name, RequestFailed)(details or code.name, name)


def _add(request: service_pb2.ModelInferRequest, name: str, datatype: str, raw: bytes, size: int = 1) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=[size])
    request.raw_input_contents.append(raw)


def _bytes(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw


def _int32(ids: Sequence[int]) -> bytes:
    try:
        return struct.pack(f"<{len(ids)}i", *ids)
    except struct.error as error:
        raise ValueError(f"prompt: token ids are 32-bit integers ({error})") from None


def _finish_reason(raw: bytes) -> str | None:
    text = raw.decode()
    return None if text == "None" else text


def _logprobs(raw: bytes) -> tuple[Mapping[int, TokenLogprob], ...]:
    return tuple(
        {
            int(token_id): TokenLogprob(entry["logprob"], entry["rank"], entry.get("decoded_token"))
            for token_id, entry in candidates.items()
        }
        for candidates in json.loads(raw)
    )
