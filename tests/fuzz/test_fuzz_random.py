"""Random malformed input, shaped by Hypothesis, for what reads untrusted bytes without a server around it."""

from __future__ import annotations

import json
import struct
import time
from typing import Any

import channel_targets
import msgspec
import parser_targets
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flover_backend.channel import Cancel, Drain, Finish, FrontStats, Hello, Submit, encode
from flover_backend.errors import InvalidRequest
from flover_backend.front.parameters import parse_object
from flover_backend.request import Request, SamplingParams

QUICK = settings(max_examples=200, deadline=None, derandomize=True, database=None)
NAMES = [*parser_targets.PARSERS[0]._table.rules, "stream", "use_beam_search", "lora_name", "unknown"]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["1e999", "-0", "nan", "NaN", "0x10", "1_0", "\ud800", " 5 ", "٣", "1" * 50, "1." * 30])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=6), inner, max_size=5),
    max_leaves=12,
)
PARAMETERS = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), JSON, max_size=5)
MSGPACK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=8) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=6), inner, max_size=5),
    max_leaves=12,
)
TAGS = st.sampled_from(["hello", "submit", "cancel", "finish", "front_stats", "drain", "get_iterations", "tokens"])


@QUICK
@given(
    st.binary(max_size=300)
    | PARAMETERS.map(lambda value: json.dumps(value).encode())
    | JSON.map(json.dumps).map(str.encode)
)
@example(b'{"stop": ' + b"[" * 900 + b"]" * 900 + b"}")
@example(b"[" * 60_000)
@example(b'{"max_tokens": ' + b"9" * 60_000 + b"}")
@example(b'{"seed": "' + b"9" * 60_000 + b'x"}')
@example(b'{"\\ud800": 1}')
def test_sampling_parameters_are_taken_or_refused(data: bytes) -> None:
    parser_targets.read_json(data)


@QUICK
@given(st.binary(max_size=300) | PARAMETERS.map(lambda value: json.dumps(value).encode()))
def test_request_parameters_are_taken_or_refused(data: bytes) -> None:
    parser_targets.read_request_parameters(data)


@QUICK
@given(st.binary(max_size=400))
def test_tensors_are_taken_or_refused(data: bytes) -> None:
    parser_targets.read_tensors(data)


@QUICK
@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"\0" * 500)
@example("\U0010ffff".encode() * 100)
def test_prompts_are_tokenized_or_refused(data: bytes) -> None:
    parser_targets.tokenize(data)


@pytest.mark.parametrize("depth", [9, 20, 300, 990, 1200, 30_000])
def test_nesting_beyond_the_limit_is_named(depth: int) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        text = b'{"stop": ' + opening * depth + (b"1" if opening != b"[" else b"") + closing * depth + b"}"
        with pytest.raises(InvalidRequest, match=r"nested too deep; at most 8 objects and lists|65536 are allowed"):
            parse_object("sampling_parameters", text)


def test_what_a_parameter_may_hold_is_not_too_deep() -> None:
    assert parse_object("x", b'{"a": [[[[[[[1]]]]]]]}') == {"a": [[[[[[[1]]]]]]]}
    assert parse_object("x", b'{"a": "[[[[[[[[[[[[[[[["}') == {"a": "[" * 16}


def test_a_long_string_of_digits_takes_no_time() -> None:
    """A number's pattern must not backtrack: 64 KiB once took minutes of the thread that takes requests in."""
    started = time.process_time()
    for value in ("1" * 60_000 + "x", "1" * 60_000 + ".", "." + "1" * 60_000 + "e", " " * 60_000 + "x"):
        for name in ("temperature", "max_tokens", "seed", "logprobs", "ignore_eos"):
            with pytest.raises(InvalidRequest, match=name):
                parser_targets.PARSERS[0].parse(parser_targets.PROMPT, json.dumps({name: value}))
    assert time.process_time() - started < 20  # seconds; it takes 20 ms, and took hours


@QUICK
@given(
    st.binary(max_size=400)
    | st.tuples(TAGS, st.lists(MSGPACK, max_size=5)).map(lambda m: msgspec.msgpack.encode([m[0], *m[1]]))
)
@example(b"\x93\xa6cancel\x01" + b"\x91" * 100_000)
@example(b"\x92\xa7can\xff\xff\xff\xffcel")
@example(b"\x92\xa6submit\x82\xa3key\x01\xaaprompt_ids\xdd\xff\xff\xff\xff")
def test_a_frame_is_a_message_or_a_value_error(data: bytes) -> None:
    channel_targets.read_frame(data)


@QUICK
@given(st.binary(max_size=600))
def test_a_byte_stream_is_messages_or_a_value_error(data: bytes) -> None:
    channel_targets.read_stream(data)


@QUICK
@given(st.data())
def test_a_damaged_frame_is_a_message_or_a_value_error(data: Any) -> None:
    messages = [
        Hello("front", "front_0", 1),
        Submit(Request(key=1, prompt_ids=[1, 2], params=SamplingParams(max_tokens=3), arrival_time=0.5)),
        Cancel(5),
        Finish(5, 0, 3),
        FrontStats(1, {"invalid_arg": 2}),
    ]
    stream = bytearray(b"".join(map(encode, messages)))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    channel_targets.read_stream(data.draw(st.sampled_from([b"\0\0", b"\0\xff"])) + bytes(stream))


@pytest.mark.parametrize(
    "message",
    [Drain(float("nan")), Drain(-1.0), Finish(1, 0, -1), FrontStats(-1), FrontStats(0, {"internal": -5})],
    ids=repr,
)
def test_values_that_no_peer_may_send_drop_it(message: Any) -> None:
    reader = channel_targets.FrameReader(engine_side=True)
    with pytest.raises(ValueError, match="undecodable frame"):
        reader.feed(encode(message))


def test_a_length_beyond_the_limit_is_refused_before_its_bytes_come() -> None:
    reader = channel_targets.FrameReader(engine_side=True)
    with pytest.raises(ValueError, match="allowed are 67108864"):
        reader.feed(struct.pack("<I", 0xFFFFFFFF))
