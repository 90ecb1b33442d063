"""A request as both sides of the channel know it: prompt ids, sampling parameters, how it ends.

Knows nothing of Triton, tokenizers, rows or blocks.
"""

from __future__ import annotations

import enum

import msgspec


class FinishReason(enum.IntEnum):
    """Why a sequence ended. NONE while it runs; the lower-case names are what clients see in `finish_reason`."""

    NONE = 0
    STOP = 1
    LENGTH = 2
    DEADLINE = 3
    CANCELLED = 4


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How to choose the tokens of one request. Ranges are checked by the front before this exists.

    `stop` strings are not here: the front finds them and tells the engine to finish.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """0 is off."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    """0 .. 2^64-1 (negative seeds are wrapped by the front)."""
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int = -1
    """-1: none; 0..20: the chosen token's and so many of the most likely."""
    cumulative_logprob: bool = False
    n: int = 1
    logit_bias: dict[int, float] = {}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a front submits. Times are `time.monotonic()` seconds, which all processes of a host share."""

    key: int
    """Unique in the engine: (front number << 40) + a count."""
    prompt_ids: list[int]
    params: SamplingParams
    arrival_time: float
    deadline: float | None = None
    has_stop_strings: bool = False
    """The front may send Finish: the engine counts this request's tokens when it ends, not before."""
