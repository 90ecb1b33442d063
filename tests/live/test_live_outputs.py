"""Every output of the contract over the wire: streamed and whole, gRPC and HTTP, one sequence and several."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from live_server import ROOT, LiveServer
from tokenizers import Tokenizer
from triton_client import Answer, Call, arrays_of, ask, ids_of, post, text_of

PROMPT = "And the king said unto"
SEEDED = {"temperature": 0.9, "seed": 11, "max_tokens": 20, "ignore_eos": True}
ALL_OUTPUTS = {
    name: True
    for name in (
        "return_finish_reason",
        "return_cumulative_logprob",
        "return_logprobs",
        "return_num_input_tokens",
        "return_num_output_tokens",
    )
}
PARAMETERS = {
    "greedy": {"temperature": 0, "max_tokens": 20},
    "seeded": SEEDED,
    "filtered": SEEDED | {"top_k": 30, "top_p": 0.8, "min_p": 0.01},
    "penalties": SEEDED | {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    "biased": SEEDED | {"logit_bias": {"70": 5, "71": -100}},
    "one token": {"temperature": 0, "max_tokens": 1},
    "stop strings": SEEDED | {"stop": ["e", "zzz"], "min_tokens": 4},
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(ROOT / "flover_backend" / "bundled" / "llama-demo" / "tokenizer.json"))


def sequences_of(answers: list[Answer]) -> list[tuple[bytes, list[int]]]:
    """(text, ids) of each of the n sequences, from answers with `num_output_tokens`."""
    n = len(answers[0].outputs["num_output_tokens"])
    texts, ids = [b""] * n, [[] for _ in range(n)]
    for answer in answers:
        ends = np.cumsum(answer.outputs["num_output_tokens"])
        parts = np.split(answer.outputs["output_ids"], ends[:-1])
        for index in range(n):
            texts[index] += answer.outputs["text_output"][index]
            ids[index] += parts[index].tolist()
    return list(zip(texts, ids, strict=True))


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def as_list(value: Any) -> list[Any]:
    """Triton's /generate writes one element without its brackets."""
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("parameters", PARAMETERS.values(), ids=PARAMETERS)
def test_a_stream_over_grpc_adds_up_to_the_whole(server: LiveServer, parameters: dict[str, Any]) -> None:
    (whole,) = ask(server.grpc_url, PROMPT, parameters, exclude_input_in_output=True, return_finish_reason=True)
    stream = ask(server.grpc_url, PROMPT, parameters, stream=True, return_finish_reason=True)
    assert whole.final
    assert text_of(stream) == whole.outputs["text_output"][0]
    assert ids_of(stream) == whole.outputs["output_ids"].tolist()
    assert [answer.final for answer in stream] == [False] * (len(stream) - 1) + [True]
    reasons = [answer.outputs["finish_reason"][0] for answer in stream]
    assert reasons == [b"None"] * (len(stream) - 1) + [whole.outputs["finish_reason"][0]]


@pytest.mark.parametrize("parameters", PARAMETERS.values(), ids=PARAMETERS)
def test_http_says_the_same_as_grpc(server: LiveServer, parameters: dict[str, Any]) -> None:
    (expected,) = ask(server.grpc_url, PROMPT, parameters, exclude_input_in_output=True)
    body = {"text_input": PROMPT, "exclude_input_in_output": True, "sampling_parameters": json.dumps(parameters)}
    url = f"{server.http_url}/v2/models/flover"
    status, text = post(f"{url}/generate", body)
    assert status == 200
    assert json.loads(text)["text_output"].encode() == expected.outputs["text_output"][0]
    assert as_list(json.loads(text)["output_ids"]) == expected.outputs["output_ids"].tolist()
    status, text = post(f"{url}/generate_stream", body | {"stream": True})
    assert status == 200
    assert "".join(event["text_output"] for event in events_of(text)).encode() == expected.outputs["text_output"][0]
    ids = [token_id for event in events_of(text) for token_id in as_list(event["output_ids"])]
    assert ids == expected.outputs["output_ids"].tolist()


@pytest.mark.parametrize("asks_for_empty_final", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_final_comes_once_and_with_content(server: LiveServer, stream: bool, asks_for_empty_final: bool) -> None:
    call = Call(
        server.grpc_url,
        arrays_of(PROMPT, SEEDED, stream=stream),
        enable_empty_final_response=asks_for_empty_final,
    )
    answers = call.rest()  # asserts that nothing comes after FINAL
    assert [answer.final for answer in answers] == [False] * (len(answers) - 1) + [True]
    assert all(answer.outputs["output_ids"].size for answer in answers)
    assert len(ids_of(answers)) == 20


def test_text_and_its_ids_are_one_prompt(server: LiveServer, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(PROMPT).ids
    (by_text,) = ask(server.grpc_url, PROMPT, SEEDED, return_num_input_tokens=True, exclude_input_in_output=True)
    (by_ids,) = ask(server.grpc_url, ids, SEEDED, return_num_input_tokens=True)
    for name in ("text_output", "output_ids", "num_input_tokens"):
        assert by_text.outputs[name].tolist() == by_ids.outputs[name].tolist()
    assert by_text.outputs["num_input_tokens"].tolist() == [len(ids)]
    assert by_text.outputs["text_output"][0] == tokenizer.decode(by_text.outputs["output_ids"].tolist()).encode()


def test_the_prompt_is_in_a_whole_text_unless_it_is_excluded(server: LiveServer) -> None:
    texts = [
        text_of(ask(server.grpc_url, PROMPT, SEEDED, **options))
        for options in ({}, {"exclude_input_in_output": False}, {"exclude_input_in_output": True})
    ]
    assert texts[0] == texts[1] == PROMPT.encode() + texts[2]
    (answer,) = ask(server.grpc_url, PROMPT, SEEDED, stream=True, exclude_input_in_output=False)
    assert "exclude_input_in_output" in answer.error


@pytest.mark.parametrize("stream", [False, True])
def test_every_optional_output(server: LiveServer, stream: bool) -> None:
    answers = ask(server.grpc_url, PROMPT, SEEDED | {"logprobs": 2}, stream=stream, **ALL_OUTPUTS)
    for answer in answers:
        outputs = answer.outputs
        assert list(outputs) == [
            "text_output",
            "output_ids",
            "finish_reason",
            "cumulative_logprob",
            "logprobs",
            "num_input_tokens",
            "num_output_tokens",
        ]
        assert [outputs[name].dtype for name in outputs] == [
            np.object_,
            np.int32,
            np.object_,
            np.float32,
            np.object_,
            np.uint32,
            np.uint32,
        ]
        assert outputs["num_output_tokens"].tolist() == [outputs["output_ids"].size]
        assert all(outputs[name].size == 1 for name in outputs if name != "output_ids")
    assert len(answers) > 1 or not stream


def test_nothing_but_text_and_ids_comes_unasked(server: LiveServer) -> None:
    for stream in (False, True):
        answers = ask(server.grpc_url, PROMPT, SEEDED, stream=stream)
        assert all(list(answer.outputs) == ["text_output", "output_ids"] for answer in answers)


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_json_of_the_raw_distribution(server: LiveServer, tokenizer: Tokenizer, stream: bool) -> None:
    greedy = {"temperature": 0, "max_tokens": 8, "logprobs": 3, "ignore_eos": True}
    answers = ask(server.grpc_url, PROMPT, greedy, stream=stream, **ALL_OUTPUTS)
    entries = [entry for answer in answers for entry in json.loads(answer.outputs["logprobs"][0])]
    ids = ids_of(answers)
    assert len(entries) == len(ids) == 8
    for token_id, entry in zip(ids, entries, strict=True):
        assert next(iter(entry)) == str(token_id)
        assert len(entry) == 3  # greedy: the chosen one is the first of the most likely
        assert [described["rank"] for described in entry.values()] == [1, 2, 3]
        logprobs = [described["logprob"] for described in entry.values()]
        assert logprobs == sorted(logprobs, reverse=True)
        assert 0 < sum(map(math.exp, logprobs)) <= 1.0001
    total = sum(entry[str(token_id)]["logprob"] for token_id, entry in zip(ids, entries, strict=True))
    assert answers[-1].outputs["cumulative_logprob"][0] == pytest.approx(total, abs=1e-3)
    shown = "".join(entry[str(token_id)]["decoded_token"] for token_id, entry in zip(ids, entries, strict=True))
    assert shown.strip() == tokenizer.decode(ids).strip()


def test_logprobs_do_not_depend_on_the_temperature(server: LiveServer) -> None:
    first = []
    for temperature in (0.5, 2.0):
        parameters = SEEDED | {"temperature": temperature, "logprobs": 5, "max_tokens": 1}
        (answer,) = ask(server.grpc_url, PROMPT, parameters, return_logprobs=True)
        (entry,) = json.loads(answer.outputs["logprobs"][0])
        first.append({described["rank"]: described["logprob"] for described in entry.values()})
    for rank in range(1, 6):
        assert first[0][rank] == pytest.approx(first[1][rank], abs=1e-4)


def test_several_sequences_of_one_prompt(server: LiveServer) -> None:
    parameters = SEEDED | {"n": 3}
    (whole,) = ask(server.grpc_url, PROMPT, parameters, exclude_input_in_output=True, **ALL_OUTPUTS)
    for name in ("text_output", "finish_reason", "cumulative_logprob", "logprobs", "num_output_tokens"):
        assert whole.outputs[name].shape == (3,), name
    assert whole.outputs["num_input_tokens"].shape == (1,)
    assert whole.outputs["num_output_tokens"].tolist() == [20, 20, 20]
    sequences = sequences_of([whole])
    assert len({text for text, _ in sequences}) == 3
    stream = ask(server.grpc_url, PROMPT, parameters, stream=True, return_num_output_tokens=True)
    assert sequences_of(stream) == sequences


def test_several_greedy_sequences_are_one_and_the_same(server: LiveServer) -> None:
    (answer,) = ask(server.grpc_url, PROMPT, PARAMETERS["greedy"] | {"n": 2}, return_num_output_tokens=True)
    first, second = sequences_of([answer])
    assert first == second


def test_a_stop_string_is_cut_and_its_ids_stay(server: LiveServer, tokenizer: Tokenizer) -> None:
    free = text_of(ask(server.grpc_url, PROMPT, SEEDED, exclude_input_in_output=True)).decode()
    stop = free[12:15]
    (answer,) = ask(
        server.grpc_url, PROMPT, SEEDED | {"stop": stop}, exclude_input_in_output=True, return_finish_reason=True
    )
    assert answer.outputs["text_output"][0].decode() == free[: free.index(stop)]
    assert answer.outputs["finish_reason"][0] == b"stop"
    assert stop in tokenizer.decode(answer.outputs["output_ids"].tolist())
    assert answer.outputs["output_ids"].size < 20


def test_a_stop_token_is_in_the_ids_and_not_in_the_text(server: LiveServer, tokenizer: Tokenizer) -> None:
    ids = ids_of(ask(server.grpc_url, PROMPT, SEEDED))
    stop = ids[6]
    end = ids.index(stop) + 1
    (answer,) = ask(
        server.grpc_url,
        PROMPT,
        SEEDED | {"stop_token_ids": [stop]},
        exclude_input_in_output=True,
        return_finish_reason=True,
    )
    assert answer.outputs["output_ids"].tolist() == ids[:end]
    assert answer.outputs["text_output"][0].decode() == tokenizer.decode(ids[: end - 1])
    assert answer.outputs["finish_reason"][0] == b"stop"


def test_eos_ends_a_text_and_min_tokens_and_ignore_eos_hold_it_off(server: LiveServer) -> None:
    eos = {"temperature": 0, "max_tokens": 6, "logit_bias": {"1": 100}}
    answers = [
        ask(server.grpc_url, PROMPT, eos | more, exclude_input_in_output=True, return_finish_reason=True)[0].outputs
        for more in ({}, {"min_tokens": 3}, {"ignore_eos": True})
    ]
    assert answers[0]["output_ids"].tolist() == [1]
    assert answers[0]["text_output"][0] == b""
    assert answers[0]["finish_reason"][0] == b"stop"
    assert 1 not in answers[1]["output_ids"].tolist()[:2]
    assert answers[1]["output_ids"].size >= 3
    assert answers[2]["output_ids"].size == 6
    assert answers[2]["finish_reason"][0] == b"length"


def test_a_seed_repeats_on_whichever_front(server: LiveServer) -> None:
    runs = [ids_of(ask(server.grpc_url, PROMPT, SEEDED)) for _ in range(4)]
    assert runs[1:] == runs[:-1]
    other = [ids_of(ask(server.grpc_url, PROMPT, SEEDED | {"seed": seed})) for seed in (12, -1, 2**64 - 1)]
    assert other[0] != runs[0]
    assert other[1] == other[2]  # negative seeds wrap


def test_without_a_seed_two_runs_differ(server: LiveServer) -> None:
    free = {"temperature": 1.0, "max_tokens": 20, "ignore_eos": True}
    assert ids_of(ask(server.grpc_url, PROMPT, free)) != ids_of(ask(server.grpc_url, PROMPT, free))


def test_the_default_is_sixteen_tokens(server: LiveServer) -> None:
    assert len(ids_of(ask(server.grpc_url, PROMPT, ignore_eos=True))) == 16
    assert len(ids_of(ask(server.grpc_url, [5] * 2040, ignore_eos=True))) == 8  # less when less fits


@pytest.mark.parametrize("spread", ["tensors", "json", "request parameters"])
def test_a_parameter_may_come_three_ways(server: LiveServer, spread: str) -> None:
    parameters: dict[str, Any] = {"max_tokens": 9, "temperature": 0.5, "top_k": 40, "seed": 3, "ignore_eos": True}
    (expected,) = ask(server.grpc_url, PROMPT, parameters)
    types = {"max_tokens": np.int32, "temperature": np.float32, "top_k": np.int32, "seed": np.uint64}
    if spread == "tensors":
        tensors = {name: np.array([entry], types.get(name, np.bool_)) for name, entry in parameters.items()}
        (answer,) = ask(server.grpc_url, PROMPT, **tensors)
    elif spread == "json":
        (answer,) = ask(server.grpc_url, PROMPT, {name: str(entry).lower() for name, entry in parameters.items()})
    else:
        (answer,) = Call(server.grpc_url, arrays_of(PROMPT), parameters=parameters).rest()
    assert answer.outputs["output_ids"].tolist() == expected.outputs["output_ids"].tolist()


def test_a_text_of_many_bytes_a_character_is_never_cut(server: LiveServer) -> None:
    parameters = {"temperature": 3.0, "seed": 5, "max_tokens": 60, "ignore_eos": True}
    prompt = "Grüße, 世界 🎉"
    stream = ask(server.grpc_url, prompt, parameters, stream=True)
    (whole,) = ask(server.grpc_url, prompt, parameters)
    for answer in stream:
        answer.outputs["text_output"][0].decode()
    assert prompt.encode() + text_of(stream) == whole.outputs["text_output"][0]


def test_request_ids_need_not_be_unique(server: LiveServer) -> None:
    calls = [Call(server.grpc_url, arrays_of(PROMPT, SEEDED, stream=True), request_id="same") for _ in range(3)]
    runs = [ids_of(call.rest()) for call in calls]
    assert len(runs[0]) == 20 and runs[1:] == runs[:-1]
