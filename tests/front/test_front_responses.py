"""What responses hold: outputs asked for, text and ids of each sequence, streaming equal to non-streaming."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fake_triton import InferenceResponse, ResponseSender
from front_host import FrontHost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flover_backend.front.tokenizer import Tokenizer
from flover_backend.request import FinishReason

LENGTH, STOP, DEADLINE, NONE = FinishReason.LENGTH, FinishReason.STOP, FinishReason.DEADLINE, FinishReason.NONE
RETURN_ALL: dict[str, Any] = {
    "return_finish_reason": True,
    "return_cumulative_logprob": True,
    "return_logprobs": True,
    "return_num_input_tokens": True,
    "return_num_output_tokens": True,
}


def text_of(responses: list[InferenceResponse], index: int = 0) -> bytes:
    return b"".join(response.outputs["text_output"][index] for response in responses)


def stream_in_pieces(host: FrontHost, sender: ResponseSender, pieces: list[list[int]], finish: FinishReason) -> None:
    """One response a piece: each is waited for before the next is given."""
    request = host.client.submitted[-1]
    for number, piece in enumerate(pieces):
        if number < len(pieces) - 1:
            host.tokens(request, piece)
            sender.wait_for(number + 1)
        else:
            host.tokens(request, piece, finish)


def test_outputs_that_were_not_asked_for_are_not_there(host: FrontHost) -> None:
    sender = host.ask([1])
    host.tokens(host.client.wait_submitted(), [40, 41], LENGTH)
    (response,) = sender.wait()
    assert list(response.outputs) == ["text_output", "output_ids"]


def test_all_outputs_and_their_types(host: FrontHost, tokenizer: Tokenizer) -> None:
    sender = host.ask([1, 2, 3], {"logprobs": 2}, **RETURN_ALL)
    logprobs = [(-0.5, 1, [(40, -0.5), (41, -1.5)]), (float("-inf"), 900, [(40, -0.25), (42, -2.0)])]
    host.tokens(host.client.wait_submitted(), [40, 41], LENGTH, logprobs=logprobs)
    outputs = sender.wait()[0].outputs
    shown = tokenizer.token_bytes.shown
    assert outputs["text_output"].tolist() == [(shown(40) + shown(41)).encode()]
    assert outputs["output_ids"].dtype == np.int32
    assert outputs["output_ids"].tolist() == [40, 41]
    assert outputs["finish_reason"].tolist() == [b"length"]
    assert outputs["cumulative_logprob"].dtype == np.float32
    assert outputs["num_input_tokens"].tolist() == [3]
    assert outputs["num_output_tokens"].tolist() == [2]
    assert outputs["num_output_tokens"].dtype == np.uint32
    assert json.loads(outputs["logprobs"][0]) == [
        {
            "40": {"logprob": -0.5, "rank": 1, "decoded_token": shown(40)},
            "41": {"logprob": -1.5, "rank": 2, "decoded_token": shown(41)},
        },
        {
            "41": {"logprob": -9999.0, "rank": 900, "decoded_token": shown(41)},
            "40": {"logprob": -0.25, "rank": 1, "decoded_token": shown(40)},
            "42": {"logprob": -2.0, "rank": 2, "decoded_token": shown(42)},
        },
    ]


def test_a_model_without_a_tokenizer_answers_with_ids(bare_host: FrontHost) -> None:
    sender = bare_host.ask([1], {"logprobs": 0}, return_logprobs=True)
    bare_host.tokens(bare_host.client.wait_submitted(), [40], LENGTH, logprobs=[(-1.0, 3, [])])
    (response,) = sender.wait()
    assert list(response.outputs) == ["output_ids", "logprobs"]
    assert json.loads(response.outputs["logprobs"][0]) == [{"40": {"logprob": -1.0, "rank": 3, "decoded_token": None}}]


def test_text_that_nobody_asked_for_is_not_made(host: FrontHost) -> None:
    sender = host.ask([1], requested=("output_ids",))
    host.tokens(host.client.wait_submitted(), [40], LENGTH)
    assert list(sender.wait()[0].outputs) == ["output_ids"]


@pytest.mark.parametrize(
    ("stream", "exclude", "prepended"),
    [(False, None, True), (False, False, True), (False, True, False), (True, None, False), (True, True, False)],
)
def test_when_the_prompt_is_in_the_text(host: FrontHost, stream: bool, exclude: bool | None, prepended: bool) -> None:
    flags = {} if exclude is None else {"exclude_input_in_output": exclude}
    sender = host.ask("Once", stream=stream, **flags)
    host.tokens(host.client.wait_submitted(), [40], LENGTH)
    text = text_of(sender.wait())
    assert text.startswith(b"Once") == prepended


def test_ids_as_a_prompt_are_not_put_into_the_text(host: FrontHost, tokenizer: Tokenizer) -> None:
    sender = host.ask([50, 51])
    host.tokens(host.client.wait_submitted(), [40], LENGTH)
    assert text_of(sender.wait()) == tokenizer.token_bytes[40]


@pytest.mark.parametrize("finish", [STOP, LENGTH, DEADLINE])
def test_finish_reasons(host: FrontHost, finish: FinishReason) -> None:
    sender = host.ask([1], stream=True, return_finish_reason=True)
    stream_in_pieces(host, sender, [[40], [41]] if host.client.wait_submitted() else [], finish)
    reasons = [response.outputs["finish_reason"].tolist() for response in sender.wait()]
    assert reasons == [[b"None"], [finish.name.lower().encode()]]


def test_the_token_that_ends_a_sequence_is_counted_but_no_text(host: FrontHost) -> None:
    sender = host.ask([1], {"stop_token_ids": [41]}, return_num_output_tokens=True)
    host.tokens(host.client.wait_submitted(), [40, 41], STOP)
    outputs = sender.wait()[0].outputs
    assert outputs["output_ids"].tolist() == [40, 41]
    assert outputs["num_output_tokens"].tolist() == [2]
    assert outputs["text_output"][0] == host.service._tokenizer.token_bytes[40]  # type: ignore[union-attr]


def test_a_stop_token_in_the_middle_is_text(host: FrontHost, tokenizer: Tokenizer) -> None:
    """It is one only if the engine ended with it (it may have been below min_tokens)."""
    sender = host.ask([1], {"stop_token_ids": [41]})
    host.tokens(host.client.wait_submitted(), [41, 40], LENGTH)
    assert text_of(sender.wait()) == tokenizer.token_bytes[41] + tokenizer.token_bytes[40]


def test_n_sequences_in_one_response(host: FrontHost, tokenizer: Tokenizer) -> None:
    sender = host.ask([1], {"n": 2}, **RETURN_ALL)
    request = host.client.wait_submitted()
    host.tokens(request, [40, 41], STOP, index=0, logprobs=[(-1.0, 1, []), (-1.0, 1, [])])
    host.tokens(request, [42], LENGTH, index=1, logprobs=[(-0.5, 1, [])])
    outputs = sender.wait()[0].outputs
    table = tokenizer.token_bytes
    assert outputs["text_output"].tolist() == [table[40] + table[41], table[42]]
    assert outputs["output_ids"].tolist() == [40, 41, 42]
    assert outputs["num_output_tokens"].tolist() == [2, 1]
    assert outputs["finish_reason"].tolist() == [b"stop", b"length"]
    assert outputs["cumulative_logprob"].tolist() == [-2.0, -0.5]
    assert [len(json.loads(text)) for text in outputs["logprobs"]] == [2, 1]


def test_n_sequences_in_a_stream(host: FrontHost) -> None:
    sender = host.ask([1], {"n": 2}, stream=True, **RETURN_ALL)
    request = host.client.wait_submitted()
    host.tokens(request, [40], index=0)
    sender.wait_for(1)
    host.tokens(request, [42], LENGTH, index=1)
    sender.wait_for(2)
    host.tokens(request, [41], STOP, index=0)
    responses = [response.outputs for response in sender.wait()]
    assert [outputs["num_output_tokens"].tolist() for outputs in responses] == [[1, 0], [0, 1], [1, 0]]
    assert [outputs["output_ids"].tolist() for outputs in responses] == [[40], [42], [41]]
    assert responses[-1]["finish_reason"].tolist() == [b"stop", b"length"]
    assert all(outputs["text_output"].size == 2 for outputs in responses)


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_stream_adds_up_to_the_whole(host: FrontHost, data: st.DataObject) -> None:
    """Any ids, any pieces, any stop strings: the deltas are the non-streaming text, byte for byte; so are the ids."""
    ids = data.draw(st.lists(st.integers(3, 350), min_size=1, max_size=20))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=4)))
    pieces = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    stops = data.draw(st.lists(st.text("etao e", min_size=1, max_size=2), max_size=3))
    min_tokens = data.draw(st.integers(0, 10))
    parameters = {"stop": stops, "min_tokens": min_tokens}

    whole = host.ask([1], parameters, return_finish_reason=True)
    host.tokens(host.client.submitted[-1], ids, LENGTH)
    expected = whole.wait()[0].outputs

    stream = host.ask([1], parameters, stream=True, return_finish_reason=True)
    request = host.client.submitted[-1]
    for number, piece in enumerate(pieces):
        host.tokens(request, piece, LENGTH if number == len(pieces) - 1 else NONE)
    responses = stream.wait()
    assert text_of(responses) == expected["text_output"][0]
    assert [i for r in responses for i in r.outputs["output_ids"].tolist()] == expected["output_ids"].tolist()
    assert responses[-1].outputs["finish_reason"].tolist() == expected["finish_reason"].tolist()


def spelled(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids whose bytes are those of `text`, one token a character where there is one."""
    return [token_id for character in text for token_id in tokenizer.encode(character)[1:]]


def test_a_stop_string_over_token_borders_is_cut_and_its_ids_stay(host: FrontHost, tokenizer: Tokenizer) -> None:
    ids = spelled(tokenizer, "onEND")
    sender = host.ask([1], {"stop": ["END"]}, stream=True, return_finish_reason=True)
    request = host.client.wait_submitted()
    stream_in_pieces(host, sender, [[token_id] for token_id in ids], NONE)
    responses = sender.wait()
    assert text_of(responses) == b"on"
    assert [r.outputs["output_ids"].tolist() for r in responses] == [[token_id] for token_id in ids]
    assert responses[-1].outputs["finish_reason"].tolist() == [b"stop"]
    assert host.client.finished == [(request.key, 0, len(ids))]


def test_tokens_after_a_stop_string_are_dropped(host: FrontHost, tokenizer: Tokenizer) -> None:
    ids = spelled(tokenizer, "ab")
    sender = host.ask([1], {"stop": "b"})
    request = host.client.wait_submitted()
    host.tokens(request, [*ids, 40, 41])
    outputs = sender.wait()[0].outputs
    assert outputs["output_ids"].tolist() == ids
    assert outputs["text_output"][0] == b"a"
    assert host.client.finished == [(request.key, 0, len(ids))]


def test_text_held_back_for_a_stop_string_comes_at_the_end(host: FrontHost, tokenizer: Tokenizer) -> None:
    ids = spelled(tokenizer, "aEN")
    sender = host.ask([1], {"stop": "END"}, stream=True)
    stream_in_pieces(host, sender, [[token_id] for token_id in ids] if host.client.wait_submitted() else [], LENGTH)
    responses = sender.wait()
    assert [r.outputs["text_output"][0] for r in responses[:-1]] == [b"a", b""]
    assert text_of(responses) == b"aEN"
    assert host.client.finished == []


def test_a_stop_string_does_not_end_a_sequence_before_min_tokens(host: FrontHost, tokenizer: Tokenizer) -> None:
    ids = spelled(tokenizer, "aXbXc")
    assert len(ids) == 5
    sender = host.ask([1], {"stop": "X", "min_tokens": 3})
    host.tokens(host.client.wait_submitted(), ids, LENGTH)
    outputs = sender.wait()[0].outputs
    assert outputs["text_output"][0] == b"aXb"
    assert outputs["output_ids"].tolist() == ids[:4]


def test_stop_strings_work_when_no_text_is_asked_for(host: FrontHost, tokenizer: Tokenizer) -> None:
    ids = spelled(tokenizer, "aXb")
    sender = host.ask([1], {"stop": "X"}, requested=("output_ids",))
    host.tokens(host.client.wait_submitted(), ids, LENGTH)
    outputs = sender.wait()[0].outputs
    assert list(outputs) == ["output_ids"]
    assert outputs["output_ids"].tolist() == ids[:2]


def test_one_of_two_sequences_stops_and_the_other_goes_on(host: FrontHost, tokenizer: Tokenizer) -> None:
    stop_ids = spelled(tokenizer, "X")
    sender = host.ask([1], {"stop": "X", "n": 2}, return_finish_reason=True)
    request = host.client.wait_submitted()
    host.tokens(request, stop_ids, index=0)
    host.tokens(request, [40], index=1)
    host.tokens(request, [41], index=0)
    host.tokens(request, [40], LENGTH, index=1)
    outputs = sender.wait()[0].outputs
    assert outputs["finish_reason"].tolist() == [b"stop", b"length"]
    assert outputs["output_ids"].tolist() == [*stop_ids, 40, 40]
