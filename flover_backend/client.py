"""A client of a served model over tritonclient's gRPC streams, one stream a request. Knows the tensors, no server.

`flover generate` and `flover demo` use it; it shows how any Python program can.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from flover_backend.errors import FloverError


class RequestFailed(FloverError):
    """The server refused the request or broke it off, or there is no server. The text is the server's."""


@dataclass(frozen=True)
class Delta:
    """One response of a stream: what is new since the one before it."""

    text: str
    num_tokens: int
    num_input_tokens: int
    finish_reason: str
    """"None" until the last one."""


class FloverClient:
    """Owns a gRPC channel to `url` (host:port). An async context manager."""

    def __init__(self, url: str, model: str = "flover") -> None:
        self.url = url
        self.model = model
        self._client = triton.InferenceServerClient(url)

    async def __aenter__(self) -> FloverClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def generate(self, prompt: str, *, stream: bool = True, **parameters: Any) -> AsyncIterator[Delta]:
        """Yield the answer to `prompt` as it comes, or whole when not `stream`. Raises `RequestFailed`.

        `parameters` are keys of sampling_parameters. Ending the iteration early cancels the request.
        """
        responses = self._client.stream_infer(self._requests(prompt, stream, parameters))
        is_over, refusal = False, None
        try:
            # NOTE: to the stream's end, which the server brings at once: one that is cancelled just after its last
            # response is kept by Triton 24.10, which then cannot stop before its --exit-timeout-secs.
            async for result, error in responses:
                if error is not None:
                    is_over, refusal = True, RequestFailed(error.message())
                    continue
                response = result.get_response()
                is_over = response.parameters["triton_final_response"].bool_param
                if response.outputs:
                    yield _delta(result)
        except (grpc.aio.AioRpcError, InferenceServerException) as error:
            raise RequestFailed(self._explain(error)) from None
        finally:
            if not is_over:
                responses.cancel()
        if refusal is not None:
            raise refusal

    async def _requests(self, prompt: str, stream: bool, parameters: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        inputs = [
            _tensor("text_input", "BYTES", np.array([prompt.encode()], dtype=object)),
            _tensor("stream", "BOOL", np.array([stream])),
            _tensor("exclude_input_in_output", "BOOL", np.array([True])),
            _tensor("sampling_parameters", "BYTES", np.array([json.dumps(parameters).encode()], dtype=object)),
        ]
        inputs += [
            _tensor(f"return_{name}", "BOOL", np.array([True]))
            for name in ("finish_reason", "num_input_tokens", "num_output_tokens")
        ]
        yield {"model_name": self.model, "inputs": inputs, "parameters": {"triton_enable_empty_final_response": True}}

    def _explain(self, error: grpc.aio.AioRpcError | InferenceServerException) -> str:
        if isinstance(error, InferenceServerException):
            return str(error.message())
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return f"no server answers at {self.url} ({error.details()}). Start one with: flover serve"
        return str(error.details())


def _tensor(name: str, datatype: str, values: np.ndarray[Any, Any]) -> Any:
    tensor = triton.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    return tensor


def _delta(result: Any) -> Delta:
    def value(name: str) -> Any:
        return result.as_numpy(name)[0]

    return Delta(
        text=value("text_output").decode(),
        num_tokens=int(value("num_output_tokens")),
        num_input_tokens=int(value("num_input_tokens")),
        finish_reason=value("finish_reason").decode(),
    )
