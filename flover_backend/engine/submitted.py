"""Whether a submitted request can do no harm: every value that an iteration computes with is in its range.

Fronts have told their clients all this before (front/parse.py, front/parameters.py). The engine does not rely on it:
a token id beyond the vocabulary or a NaN would end the iteration, and with it everybody's requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from flover_backend.channel import EngineInfo
from flover_backend.errors import InvalidRequest
from flover_backend.limits import MAX_LOGIT_BIAS, MAX_LOGPROBS, MAX_STOP_TOKENS
from flover_backend.request import Request, SamplingParams


def check_submitted(request: Request, info: EngineInfo, now: float) -> None:
    """Raise `InvalidRequest` naming the field; `now` is `time.monotonic()`."""
    _check_length("prompt_ids", len(request.prompt_ids), 1, info.max_model_len - 1)
    _check_ids("prompt_ids", request.prompt_ids, info)
    _check_range("arrival_time", request.arrival_time, 0, now)
    if request.deadline is not None and not math.isfinite(request.deadline):
        raise InvalidRequest(f"deadline: {request.deadline} given; allowed is a finite time")
    _check_params(request.params, info)


def _check_params(params: SamplingParams, info: EngineInfo) -> None:
    _check_range("max_tokens", params.max_tokens, 1, info.max_tokens_limit)
    _check_range("min_tokens", params.min_tokens, 0, params.max_tokens)
    _check_range("n", params.n, 1, info.max_rows)
    _check_range("temperature", params.temperature, 0, 100)
    _check_range("top_k", params.top_k, 0, info.vocab_size)
    _check_positive("top_p", params.top_p, 1)
    _check_range("min_p", params.min_p, 0, 1)
    _check_positive("repetition_penalty", params.repetition_penalty, 10)
    _check_range("presence_penalty", params.presence_penalty, -2, 2)
    _check_range("frequency_penalty", params.frequency_penalty, -2, 2)
    _check_range("seed", params.seed, 0, 2**64 - 1)
    _check_range("logprobs", params.logprobs, -1, MAX_LOGPROBS)
    _check_length("stop_token_ids", len(params.stop_token_ids), 0, MAX_STOP_TOKENS)
    _check_ids("stop_token_ids", params.stop_token_ids, info)
    _check_length("logit_bias", len(params.logit_bias), 0, MAX_LOGIT_BIAS)
    _check_ids("logit_bias", params.logit_bias, info)
    for bias in params.logit_bias.values():
        _check_range("logit_bias", bias, -100, 100)


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # false for NaN too
        raise InvalidRequest(f"{field}: {value} given; allowed: {low} .. {high}")


def _check_positive(field: str, value: float, high: float) -> None:
    if not 0 < value <= high:
        raise InvalidRequest(f"{field}: {value} given; allowed: above 0, up to {high}")


def _check_length(field: str, length: int, low: int, high: int) -> None:
    if not low <= length <= high:
        raise InvalidRequest(f"{field}: {length} entries given; allowed: {low} .. {high}")


def _check_ids(field: str, ids: Iterable[int], info: EngineInfo) -> None:
    low, high = min(ids, default=0), max(ids, default=0)
    if low < 0 or high >= info.vocab_size:
        bad = low if low < 0 else high
        raise InvalidRequest(f"{field}: token id {bad} given; allowed: 0 .. {info.vocab_size - 1}")
