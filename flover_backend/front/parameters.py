"""The parameters of a request: their names, ranges and defaults, gathered from the three places they may come from.

A parameter may be an input tensor, a key of the `sampling_parameters` JSON, or a request parameter. The same name
twice must mean the same value. Knows limits of the loaded model (EngineInfo); knows no Triton objects and no text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flover_backend.channel import EngineInfo
from flover_backend.errors import InvalidRequest
from flover_backend.front import coerce
from flover_backend.front.coerce import Reader, Unreadable, shown
from flover_backend.front.tensors import INPUTS
from flover_backend.limits import (
    MAX_DEADLINE_MS,
    MAX_JSON_BYTES,
    MAX_JSON_DEPTH,
    MAX_LOGIT_BIAS,
    MAX_LOGPROBS,
    MAX_STOP_BYTES,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKENS,
)

JSON_FIELD = "sampling_parameters"
IGNORED_NAMES = ("id", "priority")
"""Triton's own. Requests are served in order of arrival, so a priority changes nothing."""
TIMEOUT = "timeout"
"""Triton's own, microseconds. A request parameter only where the HTTP endpoint of a release passes it on as one."""
IGNORED_PREFIXES = ("triton_", "sequence_", "binary_")
PARAMETER_TENSORS = ("max_tokens", "min_tokens", "top_k", "temperature", "top_p", "seed", "ignore_eos")
"""Parameters that may come as input tensors of their own."""
_TENSOR_ONLY = tuple(spec.name for spec in INPUTS if spec.name not in PARAMETER_TENSORS)
BEAM_KEYS = ("use_beam_search", "beam_width", "beam_search", "num_beams", "length_penalty", "early_stopping")
LORA_KEYS = ("lora_name", "lora_task_id")


@dataclass(frozen=True, slots=True)
class Rule:
    """How one parameter is read, and what to tell who gets it wrong."""

    allowed: str
    read: Reader


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it came, and from where."""

    value: Any
    source: str


class ParameterTable:
    """Every parameter that the loaded model takes."""

    def __init__(self, info: EngineInfo, header_prefix: str | None = None) -> None:
        self.rules = _rules(info)
        self._timeout = Rule(
            f"0 (none) .. {1000 * MAX_DEADLINE_MS} us", coerce.integers_between(0, 1000 * MAX_DEADLINE_MS)
        )
        self._ignored = (*IGNORED_PREFIXES, header_prefix.lower()) if header_prefix else IGNORED_PREFIXES

    def read(self, tensors: Mapping[str, Any], json_text: bytes | None, request_parameters: str) -> dict[str, Any]:
        """Typed values of the parameters that are given; nulls count as absent.

        `tensors`: parameters that came as input tensors, as Python scalars. `json_text`: the `sampling_parameters`
        tensor. `request_parameters`: Triton's request parameters as a JSON object. Raises `InvalidRequest`.
        """
        values: dict[str, Any] = {}
        sources: dict[str, Given] = {}
        for name, given in self._gather(tensors, json_text, request_parameters):
            value = self._read_one(name, given)
            if name in values and values[name] != value:
                first = sources[name]
                raise InvalidRequest(
                    f"{name}: {shown(first.value)} as {first.source} but {shown(given.value)} as {given.source}; "
                    "give it once, or the same value"
                )
            values[name], sources[name] = value, given
        return values

    def _gather(
        self, tensors: Mapping[str, Any], json_text: bytes | None, request_parameters: str
    ) -> Iterable[tuple[str, Given]]:
        for name, value in tensors.items():
            yield name, Given(value, "input tensor")
        for name, value in parse_object(JSON_FIELD, json_text).items() if json_text is not None else ():
            yield from self._known(name, Given(value, JSON_FIELD))
        if request_parameters:
            for name, value in parse_object(
                "request parameters", request_parameters.encode(errors="surrogatepass")
            ).items():
                given = Given(value, "request parameter")
                if name == TIMEOUT:
                    yield name, given
                elif name not in IGNORED_NAMES and not name.lower().startswith(self._ignored):
                    yield from self._known(name, given)

    def _known(self, name: str, given: Given) -> Iterable[tuple[str, Given]]:
        if name in BEAM_KEYS:
            raise InvalidRequest(f"{name}: beam search is not supported; leave it out (n samples several sequences)")
        if name in LORA_KEYS:
            raise InvalidRequest(
                f"unknown name {shown(name)} as {given.source}: LoRA adapters are not served; leave it out, or "
                "merge the adapter into the weights"
            )
        if name in _TENSOR_ONLY:
            raise InvalidRequest(f"{name}: given as {given.source}; it is an input tensor only")
        if name not in self.rules:
            raise InvalidRequest(f"unknown name {shown(name)} as {given.source}; known are {', '.join(self.rules)}")
        if given.value is not None:
            yield name, given

    def _read_one(self, name: str, given: Given) -> Any:
        rule = self._timeout if name == TIMEOUT else self.rules[name]
        try:
            return rule.read(given.value)
        except Unreadable as error:
            detail = f" ({error})" if str(error) else ""
            raise InvalidRequest(
                f"{name}: got {shown(given.value)}{detail} as {given.source}; allowed: {rule.allowed}"
            ) from None


def parse_object(field: str, text: bytes) -> dict[str, Any]:
    """A JSON object whose keys are unique. NaN and infinities pass, for the field they are in to be named.

    Raises `InvalidRequest` naming `field`: too large, not UTF-8, not JSON, not an object, nested too deep.
    """
    if len(text) > MAX_JSON_BYTES:
        raise InvalidRequest(f"{field}: {len(text)} bytes; at most {MAX_JSON_BYTES} are allowed")
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique_keys, parse_int=_short_integer)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{field}: not UTF-8 at byte {error.start}; a JSON object in UTF-8 is expected") from None
    except RecursionError:
        raise _too_deep(field) from None
    except _DuplicateKey as error:
        raise InvalidRequest(f"{field}: key {shown(error.key)} is there twice; give it once") from None
    except ValueError as error:
        raise InvalidRequest(f"{field}: got {shown(text)}, which is not JSON ({error}); a JSON object is due") from None
    if _is_deeper(value, MAX_JSON_DEPTH):
        raise _too_deep(field)
    if not isinstance(value, dict):
        raise InvalidRequest(f"{field}: got {shown(value)}; a JSON object is expected, such as {{}}")
    return value


def _too_deep(field: str) -> InvalidRequest:
    return InvalidRequest(
        f"{field}: nested too deep; at most {MAX_JSON_DEPTH} objects and lists inside one another are allowed"
    )


def _is_deeper(value: Any, most: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    entries = value.values() if isinstance(value, dict) else value
    return most == 0 or any(_is_deeper(entry, most - 1) for entry in entries)


class _DuplicateKey(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _DuplicateKey(key)
        result[key] = value
    return result


def _short_integer(text: str) -> int | float:
    return int(text) if len(text) <= 40 else float(text)


def _rules(info: EngineInfo) -> dict[str, Rule]:
    vocab, most = info.vocab_size, info.max_tokens_limit
    token_id = coerce.integers_between(0, vocab - 1)
    return {
        "max_tokens": Rule(f"1 .. {most}", coerce.integers_between(1, most)),
        "min_tokens": Rule(f"0 .. max_tokens (at most {most})", coerce.integers_between(0, most)),
        "temperature": Rule("0 (greedy) .. 100, finite", coerce.reals_between(0, 100, kind=coerce.single)),
        "top_k": Rule(f"0 or -1 (off), 1 .. {vocab}", _top_k(vocab)),
        "top_p": Rule("above 0, up to 1", coerce.reals_between(0, 1, above_low=True, kind=coerce.single)),
        "min_p": Rule("0 .. 1", coerce.reals_between(0, 1)),
        "repetition_penalty": Rule("above 0, up to 10", coerce.reals_between(0, 10, above_low=True)),
        "presence_penalty": Rule("-2 .. 2", coerce.reals_between(-2, 2)),
        "frequency_penalty": Rule("-2 .. 2", coerce.reals_between(-2, 2)),
        "seed": Rule("-2^63 .. 2^64-1", _seed),
        "stop": Rule(f"a string or a list of at most {MAX_STOP_STRINGS} strings, 1 .. {MAX_STOP_BYTES} bytes", _stop),
        "stop_token_ids": Rule(
            f"a list of at most {MAX_STOP_TOKENS} token ids 0 .. {vocab - 1}",
            coerce.tuples_of(token_id, MAX_STOP_TOKENS),
        ),
        "ignore_eos": Rule("true or false", coerce.boolean),
        "logprobs": Rule(f"0 .. {MAX_LOGPROBS}, true or false", _logprobs),
        "top_logprobs": Rule(f"0 .. {MAX_LOGPROBS}", coerce.integers_between(0, MAX_LOGPROBS)),
        "n": Rule(f"1 .. {info.max_rows}", coerce.integers_between(1, info.max_rows)),
        "best_of": Rule("1, or equal to n", coerce.integer),
        "logit_bias": Rule(
            f"an object of at most {MAX_LOGIT_BIAS} token ids 0 .. {vocab - 1}, each with a bias of -100 .. 100",
            _logit_bias(token_id),
        ),
        "deadline_ms": Rule(f"1 .. {MAX_DEADLINE_MS}", coerce.integers_between(1, MAX_DEADLINE_MS)),
    }


def _top_k(vocab_size: int) -> Reader:
    def read(value: Any) -> int:
        number: int = coerce.integers_between(-1, vocab_size)(value)
        return max(number, 0)

    return read


def _seed(value: Any) -> int:
    number: int = coerce.integers_between(-(2**63), 2**64 - 1)(value)
    return number % 2**64


_stop_strings = coerce.tuples_of(coerce.text_of_bytes(1, MAX_STOP_BYTES), MAX_STOP_STRINGS)


def _stop(value: Any) -> tuple[str, ...]:
    strings: tuple[str, ...] = _stop_strings([value] if isinstance(value, str) else value)
    return strings


def _logprobs(value: Any) -> int | bool:
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in ("true", "false")):
        return coerce.boolean(value)
    number: int = coerce.integers_between(0, MAX_LOGPROBS)(value)
    return number


def _logit_bias(token_id: Reader) -> Reader:
    bias = coerce.reals_between(-100, 100)

    def read(value: Any) -> dict[int, float]:
        if not isinstance(value, dict):
            raise Unreadable
        if len(value) > MAX_LOGIT_BIAS:
            raise Unreadable(f"{len(value)} entries")
        result = {token_id(key): bias(entry) for key, entry in value.items()}
        if len(result) != len(value):
            raise Unreadable("a token id is there twice")
        return result

    return read
