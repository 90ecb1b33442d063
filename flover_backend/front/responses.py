"""The output tensors of one response, and the one place that calls Triton's response sender.

`content` makes arrays out of deltas, without Triton. `Responder` owns a request's response sender and its FINAL flag.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from flover_backend.errors import FloverError
from flover_backend.front.detokenizer import TokenBytes
from flover_backend.front.parse import OutputOptions
from flover_backend.front.sequence import Delta, Sequence, TokenLogprob
from flover_backend.request import FinishReason

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say."""

Outputs = list[tuple[str, npt.NDArray[Any]]]


def content(
    options: OutputOptions, sequences: list[Sequence], num_input_tokens: int, token_bytes: TokenBytes | None
) -> Outputs:
    """The outputs of the next response: everything new in each sequence, in the order of interface.md's table."""
    deltas = [sequence.drain() for sequence in sequences]
    outputs: Outputs = []
    if options.text:
        outputs.append(("text_output", _strings([options.prompt_text + delta.text for delta in deltas])))
    ids = [token_id for delta in deltas for token_id in delta.token_ids]
    outputs.append(("output_ids", np.array(ids, dtype=np.int32)))
    if options.finish_reason:
        outputs.append(("finish_reason", _strings([finish_name(sequence.finish) for sequence in sequences])))
    if options.cumulative_logprob:
        sums = [sequence.cumulative_logprob for sequence in sequences]
        outputs.append(("cumulative_logprob", np.array(sums, dtype=np.float32)))
    if options.logprobs:
        outputs.append(("logprobs", _strings([logprobs_json(delta, token_bytes) for delta in deltas])))
    if options.num_input_tokens:
        outputs.append(("num_input_tokens", np.array([num_input_tokens], dtype=np.uint32)))
    if options.num_output_tokens:
        counts = [len(delta.token_ids) for delta in deltas]
        outputs.append(("num_output_tokens", np.array(counts, dtype=np.uint32)))
    return outputs


def finish_name(finish: FinishReason) -> str:
    """As clients see it."""
    return finish.name.lower() if finish else "None"


def logprobs_json(delta: Delta, token_bytes: TokenBytes | None) -> str:
    """A JSON list, one object a token: the chosen token first, then the most likely ones."""
    pairs = zip(delta.token_ids, delta.logprobs, strict=False)
    return json.dumps([_token_logprobs(token_id, entry, token_bytes) for token_id, entry in pairs])


def _token_logprobs(token_id: int, entry: TokenLogprob, token_bytes: TokenBytes | None) -> dict[str, Any]:
    logprob, rank, top = entry
    result = {str(token_id): _described(token_id, logprob, rank, token_bytes)}
    for position, (other, other_logprob) in enumerate(top):
        result.setdefault(str(other), _described(other, other_logprob, position + 1, token_bytes))
    return result


def _described(token_id: int, logprob: float, rank: int, token_bytes: TokenBytes | None) -> dict[str, Any]:
    decoded = None if token_bytes is None else token_bytes.shown(token_id)
    return {"logprob": max(logprob, LEAST_LOGPROB), "rank": rank, "decoded_token": decoded}


def _strings(values: list[str]) -> npt.NDArray[Any]:
    return np.array([value.encode() for value in values], dtype=np.object_)


def error_text(error: FloverError) -> str:
    """What a client gets of an error.

    The text ends in the code: Triton sends the text of a gRPC stream's error alone, and the same HTTP status for
    several codes.
    """
    return f"{error} [{error.code}]"


class Responder:
    """A request's response sender. Sends FINAL exactly once; nothing can be sent after it.

    `is_cancelled` may be called from another thread than the rest.
    """

    def __init__(self, pb_utils: Any, response_sender: Any) -> None:
        self._pb = pb_utils
        self._sender = response_sender
        # NOTE: after FINAL Triton frees what is_cancelled looks at; the lock keeps the two apart.
        self._lock = threading.Lock()

    @property
    def closed(self) -> bool:
        """FINAL was sent, or sending it was tried."""
        return self._sender is None

    def is_cancelled(self) -> bool:
        """Whether the client is gone; a blocking round trip to Triton."""
        with self._lock:
            return self._sender is not None and bool(self._sender.is_cancelled())

    def send(self, outputs: Outputs, *, final: bool) -> None:
        """Send one content response; blocks until Triton has it."""
        tensors = [self._pb.Tensor(name, array) for name, array in outputs]
        self._send(self._pb.InferenceResponse(output_tensors=tensors), final=final)

    def fail(self, error: FloverError) -> None:
        """Send an error response with FINAL."""
        code = getattr(self._pb.TritonError, error.code, self._pb.TritonError.INTERNAL)
        told = self._pb.TritonError(error_text(error), code)
        response = self._pb.InferenceResponse(output_tensors=[], error=told)
        self._send(response, final=True)

    def _send(self, response: Any, *, final: bool) -> None:
        if self._sender is None:
            raise RuntimeError("a response after FINAL")
        if not final:
            self._sender.send(response)
            return
        with self._lock:
            sender, self._sender = self._sender, None
            sender.send(response, flags=self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
