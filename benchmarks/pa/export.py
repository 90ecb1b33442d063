"""Reads the file that perf_analyzer writes with --profile-export-file. Knows its layout, computes no figure.

A file of hundreds of MB is taken apart one request at a time, and a request keeps a time and a count of tokens a
response: beside the file's own bytes that is little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.pa import events
from benchmarks.pa.errors import BrokenExport, MeasurementFailed

Times = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Request:
    """What became of one request. Times are nanoseconds of the client's clock.

    `times`, `tokens`: int64 [responses], when each came and how many tokens it held.
    """

    sent: int
    times: Times
    tokens: Times
    prompt_tokens: int | None
    """None for a prompt of text."""
    asked_tokens: int | None
    had_empty_final: bool = False
    """A last response without content came, and was left out."""

    @property
    def ended(self) -> int:
        """When the last response came; for a request without one, when it was sent."""
        return int(self.times[-1]) if len(self.times) else self.sent

    @property
    def num_tokens(self) -> int:
        """Of the answer."""
        return int(self.tokens.sum())


@dataclass(frozen=True)
class Experiment:
    """One setting of a run: `mode` and `value` as perf_analyzer names them."""

    mode: str
    value: float
    requests: Sequence[Request]
    """In the order they were sent."""


class _Inputs(msgspec.Struct):
    input_ids: int | list[int] | str | None = None
    max_tokens: int | str | None = None
    return_num_output_tokens: bool | str | None = None


class _Outputs(msgspec.Struct):
    output_ids: int | list[int] | str | None = None
    num_output_tokens: int | list[int] | str | None = None
    text_output: msgspec.Raw = msgspec.Raw(b'""')
    """Not decoded: perf_analyzer writes a tensor's bytes as they are, UTF-8 or not."""
    response: str | None = None
    """Over HTTP: server-sent events in place of tensors."""


class _Request(msgspec.Struct):
    timestamp: int
    response_timestamps: list[int]
    response_outputs: list[_Outputs] = []
    request_inputs: _Inputs = msgspec.field(default_factory=_Inputs)


class _Setting(msgspec.Struct):
    mode: str
    value: float


class _Experiment(msgspec.Struct):
    experiment: _Setting
    requests: list[msgspec.Raw]


class _File(msgspec.Struct):
    experiments: list[_Experiment]
    version: str = ""


def read_export(path: Path, num_requests: int | None = None) -> list[Experiment]:
    """Raises `MeasurementFailed` for a file that holds no request, `BrokenExport` for what is not such a file.

    So it does where an experiment holds some, but fewer than the `num_requests` that perf_analyzer was to send.
    """
    try:
        found = _read(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BrokenExport(f"{path} is not a complete export of perf_analyzer: {error}") from None
    if not any(experiment.requests for experiment in found):
        raise MeasurementFailed(
            f"{path} holds no request. By time only requests that end inside a window are written: "
            "measure longer, or by --requests"
        )
    fewest = min(len(experiment.requests) for experiment in found if experiment.requests)
    if num_requests is not None and fewest < num_requests:
        raise BrokenExport(f"{path} holds {fewest} requests of the {num_requests} that perf_analyzer was to send")
    return found


def _read(content: bytes) -> list[Experiment]:
    decoder = msgspec.json.Decoder(_Request)
    found = []
    for one in msgspec.json.decode(content, type=_File).experiments:
        requests = [_request(decoder.decode(raw)) for raw in one.requests]
        requests.sort(key=lambda request: request.sent)
        found.append(Experiment(one.experiment.mode, one.experiment.value, requests))
    return found


def _request(raw: _Request) -> Request:
    asked = raw.request_inputs.max_tokens if isinstance(raw.request_inputs.max_tokens, int) else None
    tokens = [_num_tokens(raw, number) for number in range(len(raw.response_timestamps))]
    had_empty_final = bool(tokens) and _is_empty_final(raw, tokens, asked)
    if had_empty_final:
        tokens.pop()
    return Request(
        sent=raw.timestamp,
        times=np.array(raw.response_timestamps[: len(tokens)], dtype=np.int64),
        tokens=np.array(tokens, dtype=np.int64),
        prompt_tokens=_length(raw.request_inputs.input_ids),
        asked_tokens=asked,
        had_empty_final=had_empty_final,
    )


def _num_tokens(raw: _Request, number: int) -> int:
    """Of a response: its ids; else the count that it states, when asked to; else one, as of any other backend."""
    outputs = raw.response_outputs[number] if number < len(raw.response_outputs) else _Outputs()
    if outputs.response is not None:
        return events.num_tokens(outputs.response)
    by_ids = _length(outputs.output_ids)
    if by_ids is not None:
        return by_ids
    # NOTE: for an output that the server left out perf_analyzer writes what lay in its memory.
    stated = outputs.num_output_tokens if raw.request_inputs.return_num_output_tokens is True else None
    if isinstance(stated, list):
        return sum(stated)
    return stated if isinstance(stated, int) else 1


def _is_empty_final(raw: _Request, tokens: list[int], asked: int | None) -> bool:
    """Whether the last response only said that it is the last. Numbers in it are then those of old memory."""
    last = raw.response_outputs[-1] if len(raw.response_outputs) == len(tokens) else _Outputs()
    if last.response is not None:
        return not last.response
    if bytes(last.text_output) not in (b'""', b"null"):
        return False
    has_ids = last.output_ids not in (None, "")
    if not has_ids:
        return len(tokens) > 1
    stated = last.num_output_tokens if raw.request_inputs.return_num_output_tokens is True else None
    contradicts = isinstance(stated, int) and stated != tokens[-1]
    return contradicts or (asked is not None and sum(tokens) > asked)


def _length(ids: int | list[int] | str | None) -> int | None:
    """perf_analyzer writes one id as a number, and none as empty text."""
    if isinstance(ids, list):
        return len(ids)
    if isinstance(ids, int):
        return 1
    return 0 if ids == "" else None
