"""Asks a server about a model, and sends it one request, over tritonclient. Knows no perf_analyzer."""

from __future__ import annotations

import queue
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from benchmarks.pa.errors import MeasurementFailed
from benchmarks.pa.inputs import Entry
from benchmarks.pa.run import Target

DTYPES: dict[str, Any] = {
    "input_ids": np.int32,
    "max_tokens": np.int32,
    "stream": np.bool_,
    "ignore_eos": np.bool_,
    "temperature": np.float32,
    "seed": np.uint64,
    "return_num_output_tokens": np.bool_,
}


class Probe:
    """Owns a gRPC channel. A context manager."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._client = triton.InferenceServerClient(target.url)
        self._headers = target.metadata()

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    def check(self) -> None:
        """Raise `MeasurementFailed` unless the model is served, decoupled, and its statistics may be read."""
        model, url = self._target.model, self._target.url
        try:
            config = self._client.get_model_config(model, headers=self._headers).config
        except InferenceServerException as error:
            raise MeasurementFailed(
                f"no model {model} at {url}: {error.message()}. Give the gRPC address of a server as --url, or leave "
                "--url out to have one started"
            ) from None
        if not config.model_transaction_policy.decoupled:
            raise MeasurementFailed(f"model {model} at {url} is not decoupled: it streams no tokens")
        try:
            self.num_accepted()
        except InferenceServerException as error:
            raise MeasurementFailed(
                f"{url} does not tell statistics of {model}, which perf_analyzer asks for: {error.message()}. "
                "Give the header that it expects as --header NAME:VALUE"
            ) from None

    def num_accepted(self) -> int:
        """Requests that the model has taken since the server's start; a decoupled model's Triton counts no more."""
        statistics = self._client.get_inference_statistics(self._target.model, headers=self._headers)
        return sum(int(one.inference_count) for one in statistics.model_stats)

    def send(self, entry: Entry, timeout_s: float) -> None:
        """One request, read to its end. Raises `MeasurementFailed` with the server's text."""
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        is_over = False
        self._client.start_stream(callback=lambda result, error: answers.put((result, error)), headers=self._headers)
        try:
            self._client.async_stream_infer(
                self._target.model,
                [_tensor(name, entry[name]) for name in entry],
                enable_empty_final_response=True,  # a server may send FINAL by itself, as PyTriton does
            )
            while not is_over:
                result, error = answers.get(timeout=timeout_s)
                if error is not None:
                    is_over = True
                    raise MeasurementFailed(
                        f"the server refuses the longest of the requests: {error.message()}. What it asks follows from "
                        "--prompt-tokens, --output-tokens, --vocab-size, --prompt-file and --temperature"
                    )
                is_over = result.get_response().parameters["triton_final_response"].bool_param
        except queue.Empty:
            raise MeasurementFailed(f"no response within {timeout_s:g} s to the one request that warms up") from None
        finally:
            self._client.stop_stream(cancel_requests=not is_over)


def _tensor(name: str, value: Any) -> Any:
    content = value["content"] if isinstance(value, dict) else value
    if name == "text_input":
        array = np.array([text.encode() for text in content], dtype=np.object_)
    else:
        array = np.array(content, dtype=DTYPES[name])
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor
