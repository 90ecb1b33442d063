"""What goes into a request and what comes out of it, as types. Knows no Triton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

Prompt: TypeAlias = str | Sequence[int]
"""Text, or token ids."""

Message: TypeAlias = Mapping[str, Any]
"""`{"role": ..., "content": ...}` and whatever else the template reads; JSON values."""


class Parameters(TypedDict, total=False):
    """The keys of `sampling_parameters`; what each means, its default and range: docs/interface.md."""

    max_tokens: int
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    logprobs: int
    n: int
    best_of: int
    logit_bias: Mapping[int, float]
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was in the raw distribution. `rank` 1 is the likeliest."""

    logprob: float
    rank: int
    token: str | None


@dataclass(frozen=True, slots=True)
class Output:
    """One sequence's share of a response: what is new since the response before it."""

    text: str
    """Empty when the model has no tokenizer."""
    token_ids: tuple[int, ...]
    finish_reason: str | None
    """stop, length or deadline; None until the sequence has ended."""
    cumulative_logprob: float | None
    """Of all its tokens so far; None unless `logprobs` was asked for."""
    logprobs: tuple[Mapping[int, TokenLogprob], ...]
    """For each new token the candidates by id, itself among them; empty unless `logprobs` was asked for."""


@dataclass(frozen=True, slots=True)
class Response:
    """One response: of a stream, what is new; else the whole answer. `text` and the like are the first sequence's."""

    outputs: tuple[Output, ...]
    """One a sequence: n of them."""
    num_input_tokens: int
    """Tokens of the prompt."""
    is_final: bool
    """Nothing comes after this one."""

    @property
    def text(self) -> str:
        """Of the first sequence."""
        return self.outputs[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Of the first sequence."""
        return self.outputs[0].token_ids

    @property
    def finish_reason(self) -> str | None:
        """Of the first sequence."""
        return self.outputs[0].finish_reason

    @property
    def logprobs(self) -> tuple[Mapping[int, TokenLogprob], ...]:
        """Of the first sequence."""
        return self.outputs[0].logprobs
