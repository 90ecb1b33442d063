"""A FrontService around a fake client, and short ways to send it requests."""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from typing import Any

import numpy as np
from fake_client import FakeClient
from fake_triton import InferenceRequest, Logger, ResponseSender, TritonError, strings
from small_info import INFO

from flover_backend.channel import Metrics
from flover_backend.front.incoming import Incoming
from flover_backend.front.logs import Log
from flover_backend.front.responses import Responder
from flover_backend.front.sender import SenderPool
from flover_backend.front.service import FrontService
from flover_backend.front.tokenizer import Tokenizer
from flover_backend.request import FinishReason, Request


class NoMetrics:
    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def count(self, increments: dict[str, int]) -> None:
        self.counted.update(increments)

    def on_leader(self, acknowledged: Metrics | None) -> None:
        pass

    def on_metrics(self, metrics: Metrics) -> None:
        pass

    def on_engine_gone(self) -> None:
        pass

    def close(self, timeout_s: float) -> bool:
        return True


class FrontHost:
    def __init__(self, pb_utils: Any, tokenizer: Tokenizer | None, sender_threads: int = 2) -> None:
        self.pb_utils = pb_utils
        self.client = FakeClient()
        self.metrics = NoMetrics()
        self.service = FrontService(
            self.client,
            tokenizer,
            self.metrics,
            Log("front_0", "text", Logger),
            SenderPool(sender_threads),
            header_prefix="x-",
        )
        self.closed = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.service.close()

    def log_lines(self, message: str = "request") -> list[dict[str, str]]:
        """The fields of the front's lines that say `message`, once it has ended."""
        self.close()
        head = f"flover front_0: {message} "
        lines = [line.removeprefix(head) for level, line in Logger.lines if level == "info" and line.startswith(head)]
        return [dict(pair.split("=", 1) for pair in shlex.split(line)) for line in lines]

    def send(self, request: InferenceRequest) -> ResponseSender:
        def copy_out() -> Incoming:
            wants_text = "text_output" in request.requested_output_names()
            return Incoming(
                request.arrays, request.parameters(), wants_text, request.request_id(), timeout_us=request.timeout()
            )

        self.service.accept(Responder(self.pb_utils, request.sender), copy_out)
        return request.sender

    def ask(self, prompt: object = "Hello", parameters: object = None, **arrays: Any) -> ResponseSender:
        """A request: str or bytes are text, a list is ids; `parameters` become the JSON; other names are tensors."""
        return self.send(make_request(prompt, parameters, **arrays))

    def refusal(self, prompt: object = "Hello", parameters: object = None, **arrays: Any) -> str:
        """The text of the INVALID_ARG that such a request gets, after which a good one is still taken."""
        error = self.ask(prompt, parameters, **arrays).error()
        assert error.code == TritonError.INVALID_ARG, str(error)
        assert not self.client.submitted
        good = self.ask([5])
        self.tokens(self.client.wait_submitted(), [7], FinishReason.LENGTH)
        assert good.wait()[-1].outputs["output_ids"].tolist() == [7]
        return str(error)

    def accepted(self, prompt: object = "Hello", parameters: object = None, **arrays: Any) -> Request:
        """The request that the engine gets."""
        self.ask(prompt, parameters, **arrays)
        return self.client.wait_submitted()

    def tokens(
        self,
        request: Request,
        token_ids: list[int],
        finish: FinishReason = FinishReason.NONE,
        index: int = 0,
        logprobs: Any = None,
    ) -> None:
        """The engine's news."""
        self.service.on_tokens(request.key, index, token_ids, finish, logprobs)


def make_request(prompt: object = "Hello", parameters: object = None, **arrays: Any) -> InferenceRequest:
    inputs: dict[str, np.ndarray] = {}
    if isinstance(prompt, str | bytes):
        inputs["text_input"] = strings(prompt)
    elif prompt is not None:
        inputs["input_ids"] = np.array(prompt, dtype=np.int32)
    if isinstance(parameters, str | bytes):
        inputs["sampling_parameters"] = strings(parameters)
    elif parameters is not None:
        inputs["sampling_parameters"] = strings(json.dumps(parameters))
    request_parameters = arrays.pop("request_parameters", {})
    requested = arrays.pop("requested", ("text_output", "output_ids"))
    timeout_us = arrays.pop("timeout_us", 0)
    inputs |= {name: value if isinstance(value, np.ndarray) else np.array([value]) for name, value in arrays.items()}
    return InferenceRequest(inputs, request_parameters, requested, timeout_us=timeout_us)


def wait_until(condition: Any, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.002)


__all__ = ["INFO", "FrontHost", "make_request", "wait_until"]


def started(host: FrontHost, stream: bool = True, **parameters: Any) -> tuple[ResponseSender, Request]:
    """A request that the engine has."""
    before = len(host.client.submitted)
    sender = host.ask([1], parameters or None, stream=stream)
    return sender, host.client.wait_submitted(before + 1)
