"""A Triton request's inputs -> a prompt, parameters and what the client wants back. Everything is copied out.

Knows input names and rules that span several of them; single parameters are parameters.py's. Takes plain arrays, so
that tests need no Triton. What needs the prompt's length in tokens is checked afterwards, by `sampling_params`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flover_backend.channel import EngineInfo
from flover_backend.errors import InvalidRequest
from flover_backend.front.coerce import shown
from flover_backend.front.parameters import JSON_FIELD, PARAMETER_TENSORS, TIMEOUT, ParameterTable
from flover_backend.request import SamplingParams

_PASSED_ON = (
    "min_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "stop_token_ids",
    "ignore_eos",
    "n",
    "logit_bias",
)
"""Parameters that the engine gets as they were read."""

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What goes into the responses of one request."""

    stream: bool
    prompt_text: str = ""
    """Prepended to each text when not streaming; empty when the prompt is to be left out."""
    text: bool = True
    finish_reason: bool = False
    cumulative_logprob: bool = False
    logprobs: bool = False
    num_input_tokens: bool = False
    num_output_tokens: bool = False


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request that is valid as far as it can be told without its prompt's tokens. One of the prompts is None."""

    text: str | None
    prompt_ids: list[int] | None
    values: dict[str, Any]
    """Parameters that were given, typed."""
    outputs: OutputOptions
    timeout_us: int = 0
    """Triton's own request timeout; 0 is none."""

    @property
    def n(self) -> int:
        """How many sequences are wanted."""
        return int(self.values.get("n", 1))

    @property
    def stop(self) -> tuple[str, ...]:
        """Stop strings."""
        return tuple(self.values.get("stop", ()))

    @property
    def deadline_s(self) -> float | None:
        """Seconds after arrival, the earliest of all that were given, or None."""
        given_us = (1000 * self.values.get("deadline_ms", 0), self.values.get(TIMEOUT, 0), self.timeout_us)
        return min((microseconds / 1e6 for microseconds in given_us if microseconds), default=None)


class RequestParser:
    """Checks requests against the limits of the loaded model."""

    def __init__(self, info: EngineInfo, *, has_tokenizer: bool, header_prefix: str | None = None) -> None:
        self._info = info
        self._has_tokenizer = has_tokenizer
        self._table = ParameterTable(info, header_prefix)

    def parse(
        self, arrays: Arrays, request_parameters: str, wants_text: bool = True, timeout_us: int = 0
    ) -> ParsedRequest:
        """`arrays`: input name -> array, as Triton hands them over (BYTES as objects). Raises `InvalidRequest`."""
        text, prompt_ids = self._prompt(arrays)
        tensors = {name: _scalar(name, arrays[name]) for name in PARAMETER_TENSORS if name in arrays}
        json_text = _bytes(JSON_FIELD, arrays[JSON_FIELD]) if JSON_FIELD in arrays else None
        values = self._table.read(tensors, json_text, request_parameters)
        self._check_together(values)
        outputs = self._outputs(arrays, text, wants_text and self._has_tokenizer)
        return ParsedRequest(text, prompt_ids, values, outputs, timeout_us)

    def _prompt(self, arrays: Arrays) -> tuple[str | None, list[int] | None]:
        given = [name for name in ("text_input", "input_ids") if name in arrays]
        if len(given) != 1:
            what = "both text_input and input_ids are" if given else "neither text_input nor input_ids is"
            raise InvalidRequest(f"{what} given; give exactly one of them")
        if given == ["text_input"]:
            return self._text(_bytes("text_input", arrays["text_input"])), None
        return None, check_ids("input_ids", _ids(arrays["input_ids"]), self._info)

    def _text(self, raw: bytes) -> str:
        if not self._has_tokenizer:
            raise InvalidRequest("text_input: this model has no tokenizer.json; give input_ids")
        if not raw:
            raise InvalidRequest("text_input: the prompt is empty; at least one token is needed")
        if len(raw) > self._info.max_prompt_bytes:
            raise InvalidRequest(
                f"text_input: {len(raw)} bytes; at most {self._info.max_prompt_bytes} (max_prompt_bytes) are allowed"
            )
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            bad = shown(raw[error.start : error.start + 4])
            raise InvalidRequest(f"text_input: not UTF-8 at byte {error.start} ({bad}); UTF-8 is expected") from None

    def _check_together(self, values: dict[str, Any]) -> None:
        n, best_of = values.get("n", 1), values.get("best_of", 1)
        if best_of not in (1, n):
            raise InvalidRequest(f"best_of: got {best_of} with n = {n}; allowed: 1, or equal to n (nothing is ranked)")
        if values.get("top_logprobs") is not None and values.get("logprobs") is not True:
            asked = values.get("logprobs")
            if values["top_logprobs"] != 0 and asked != values["top_logprobs"]:
                raise InvalidRequest(
                    f"top_logprobs: got {values['top_logprobs']} with logprobs = {shown(asked)}; it needs logprobs true"
                )
        if values.get("stop") and not self._has_tokenizer:
            raise InvalidRequest("stop: this model has no tokenizer.json, so no text to search; use stop_token_ids")

    def _outputs(self, arrays: Arrays, text: str | None, has_text: bool) -> OutputOptions:
        stream = _flag("stream", arrays)
        exclude = _flag("exclude_input_in_output", arrays) if "exclude_input_in_output" in arrays else None
        if stream and exclude is False:
            raise InvalidRequest(
                "exclude_input_in_output: got false with stream true; a stream holds new text only; allowed: true"
            )
        return OutputOptions(
            stream=stream,
            prompt_text="" if stream or exclude or text is None else text,
            text=has_text,
            finish_reason=_flag("return_finish_reason", arrays),
            cumulative_logprob=_flag("return_cumulative_logprob", arrays),
            logprobs=_flag("return_logprobs", arrays),
            num_input_tokens=_flag("return_num_input_tokens", arrays),
            num_output_tokens=_flag("return_num_output_tokens", arrays),
        )


def check_ids(field: str, ids: list[int], info: EngineInfo) -> list[int]:
    """The prompt's ids, if the model can take them. Raises `InvalidRequest`."""
    if not ids:
        raise InvalidRequest(f"{field}: the prompt is empty; at least one token is needed")
    if len(ids) >= info.max_model_len:
        raise InvalidRequest(
            f"{field}: {len(ids)} prompt tokens; allowed: 1 .. {info.max_model_len - 1} (max_model_len is "
            f"{info.max_model_len}, and at least one token is generated)"
        )
    low, high = min(ids), max(ids)
    if low < 0 or high >= info.vocab_size:
        bad = low if low < 0 else high
        position = ids.index(bad)
        raise InvalidRequest(f"{field}: token id {bad} at position {position}; allowed: 0 .. {info.vocab_size - 1}")
    return ids


def sampling_params(parsed: ParsedRequest, num_prompt_tokens: int, info: EngineInfo) -> SamplingParams:
    """The parameters with defaults filled in, now that the prompt's length is known. Raises `InvalidRequest`."""
    values = parsed.values
    max_tokens = _max_tokens(values.get("max_tokens"), num_prompt_tokens, info)
    if values.get("min_tokens", 0) > max_tokens:
        raise InvalidRequest(f"min_tokens: got {values['min_tokens']}; allowed: 0 .. max_tokens, which is {max_tokens}")
    return SamplingParams(
        max_tokens=max_tokens,
        seed=values["seed"] if "seed" in values else secrets.randbits(64),
        logprobs=_num_logprobs(values) if parsed.outputs.logprobs else -1,
        cumulative_logprob=parsed.outputs.cumulative_logprob,
        **{name: values[name] for name in _PASSED_ON if name in values},
    )


def _max_tokens(asked: int | None, num_prompt_tokens: int, info: EngineInfo) -> int:
    room = info.max_model_len - num_prompt_tokens
    if asked is None:
        return min(info.max_tokens_default, info.max_tokens_limit, room)
    if asked > room:
        raise InvalidRequest(
            f"max_tokens: got {asked} with {num_prompt_tokens} prompt tokens; together at most {info.max_model_len} "
            f"(max_model_len) are allowed, so max_tokens 1 .. {room}"
        )
    return asked


def _num_logprobs(values: dict[str, Any]) -> int:
    asked = values.get("logprobs", 0)
    return int(values.get("top_logprobs", 0)) if isinstance(asked, bool) else int(asked)


def _one(field: str, array: npt.NDArray[Any]) -> Any:
    if array.size != 1:
        raise InvalidRequest(f"{field}: {array.size} elements, shape {list(array.shape)}; allowed: one, shape [1]")
    return array.reshape(-1)[0]


def _scalar(field: str, array: npt.NDArray[Any]) -> Any:
    return _one(field, array).item()


def _bytes(field: str, array: npt.NDArray[Any]) -> bytes:
    value = _one(field, array)
    if not isinstance(value, str | bytes):  # bytes(5_000_000_000) would be as long
        raise InvalidRequest(f"{field}: {array.dtype}; allowed: one STRING")
    return value.encode(errors="surrogatepass") if isinstance(value, str) else bytes(value)


def _flag(field: str, arrays: Arrays) -> bool:
    return field in arrays and bool(_one(field, arrays[field]))


def _ids(array: npt.NDArray[Any]) -> list[int]:
    if array.dtype != np.int32 or array.ndim != 1:
        raise InvalidRequest(f"input_ids: {array.dtype} {list(array.shape)}; allowed: one list of INT32")
    ids: list[int] = array.tolist()
    return ids
