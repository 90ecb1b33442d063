"""Requests to the models of these tests, and what came back, in a form that reads well in a test."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from live_server import LiveServer
from triton_client import Answer, Call

GREEDY = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
PROMPT = "Once upon a time"


def call(server: LiveServer, model: str, question: str = PROMPT, parameters: Any = None, **options: Any) -> Call:
    """A request with text. `stream` among the options is the tensor, `parameters_of_request` tritonclient's parameters.

    The others are tritonclient's by their own names.
    """
    arrays = {
        "question" if model == "storyteller" else "text_input": np.array([question.encode()], np.object_),
        "sampling_parameters": np.array([json.dumps(parameters or GREEDY).encode()], np.object_),
        "stream": np.array([options.pop("stream", False)]),
    }
    if "parameters_of_request" in options:
        options["parameters"] = options.pop("parameters_of_request")
    return Call(server.grpc_url, arrays, model, **options)


def ask(server: LiveServer, model: str, question: str = PROMPT, parameters: Any = None, **options: Any) -> list[Answer]:
    """All answers, without an empty last one (which BLS models send)."""
    answers = call(server, model, question, parameters, **options).rest()
    return [answer for answer in answers if answer.outputs or answer.error]


def text(answers: list[Answer], output: str = "text_output") -> str:
    """Of all answers together. Fails on an error."""
    assert [answer.error for answer in answers] == [""] * len(answers)
    return b"".join(answer.outputs[output][0] for answer in answers).decode()
