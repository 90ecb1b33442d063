"""The whole path once: a bare tritonserver, two fronts, one engine, the bundled model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from live_server import LiveServer, StartServer, is_running, shared_memory_of, wait_for
from triton_client import Call, arrays_of, ask, ids_of, post, text_of

from flover_backend.front.tensors import config_pbtxt

PROMPT = "And God said"
GREEDY = {"temperature": 0, "max_tokens": 24}


def test_a_stream_adds_up_to_the_whole(server: LiveServer) -> None:
    (whole,) = ask(server.grpc_url, PROMPT, GREEDY, exclude_input_in_output=True)
    stream = ask(server.grpc_url, PROMPT, GREEDY, stream=True, return_finish_reason=True)
    assert text_of(stream) == whole.outputs["text_output"][0]
    assert ids_of(stream) == whole.outputs["output_ids"].tolist()
    assert len(ids_of(stream)) == 24
    assert stream[-1].outputs["finish_reason"].tolist() == [b"length"]


def test_final_rides_on_the_last_token(server: LiveServer) -> None:
    answers = ask(server.grpc_url, PROMPT, GREEDY, stream=True)
    assert [answer.final for answer in answers] == [False] * (len(answers) - 1) + [True]
    assert all(answer.outputs["output_ids"].size for answer in answers)


def test_both_fronts_share_one_engine(server: LiveServer) -> None:
    calls = [Call(server.grpc_url, arrays_of([5 + i, 6, 7], GREEDY, stream=True)) for i in range(16)]
    fused = [ids_of(call.rest()) for call in calls]
    assert all(len(ids) == 24 for ids in fused)
    alone = ids_of(ask(server.grpc_url, [5, 6, 7], GREEDY))
    assert fused[0] == alone
    assert server.log().count("started the engine process") == 1


def test_generate_over_http(server: LiveServer) -> None:
    body = {"text_input": PROMPT, "temperature": 0, "max_tokens": 24, "exclude_input_in_output": True}
    status, text = post(f"{server.http_url}/v2/models/flover/generate", body)
    assert status == 200
    expected = ask(server.grpc_url, PROMPT, GREEDY, exclude_input_in_output=True)
    assert json.loads(text)["text_output"].encode() == text_of(expected)


def test_generate_stream_over_http(server: LiveServer) -> None:
    body = {"text_input": PROMPT, "temperature": 0, "max_tokens": 24, "stream": True}
    status, text = post(f"{server.http_url}/v2/models/flover/generate_stream", body)
    assert status == 200
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    assert "".join(event["text_output"] for event in events).encode() == text_of(
        ask(server.grpc_url, PROMPT, GREEDY, exclude_input_in_output=True)
    )


@pytest.mark.parametrize(
    ("prompt", "parameters", "said"),
    [
        (b"", None, "text_input: the prompt is empty"),
        (b"\xff", None, "text_input: not UTF-8"),
        ([99_999], None, "input_ids: token id 99999"),
        ("x", {"max_tokens": 0}, "max_tokens: got 0"),
        ("x", {"temprature": 1}, "'temprature'"),
        ("x", {"n": 1000}, "n: got 1000"),
    ],
)
def test_bad_input_is_refused_and_the_next_request_served(
    server: LiveServer, prompt: bytes | str | list[int], parameters: object, said: str
) -> None:
    (answer,) = ask(server.grpc_url, prompt, parameters)
    assert said in answer.error
    assert len(ids_of(ask(server.grpc_url, PROMPT, {"max_tokens": 3, "ignore_eos": True}))) == 3


def test_cancelling_frees_the_blocks(server: LiveServer) -> None:
    cancelled = 'flover_requests_finished_total{model="flover",reason="cancelled",version="1"}'
    used = 'flover_kv_blocks_used{model="flover",version="1"}'
    wait_for(lambda: server.metrics()[used] == 0)
    before = server.metrics()[cancelled]
    call = Call(server.grpc_url, arrays_of(PROMPT, {"max_tokens": 2000, "ignore_eos": True}, stream=True))
    call.next()
    wait_for(lambda: server.metrics()[used] > 0)
    call.cancel()
    wait_for(lambda: server.metrics()[cancelled] == before + 1)
    assert server.metrics()[used] == 0


def test_metrics_count_exactly(server: LiveServer) -> None:
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "flover_time_to_first_token_seconds_count")
    series = [f'{name}{{model="flover",version="1"}}' for name in names]
    wait_for(lambda: server.metrics()['flover_requests_running{model="flover",version="1"}'] == 0)
    before = server.metrics()
    for length in (1, 5, 9):
        ask(server.grpc_url, [5, 6, 7], {"max_tokens": length, "ignore_eos": True})
    wait_for(lambda: [server.metrics()[name] - before[name] for name in series] == [9, 15, 3])


def test_a_server_that_completes_no_configs_takes_the_full_one(start_server: StartServer) -> None:
    server = start_server(arguments=("--disable-auto-complete-config",))
    server.wait_ready()
    assert len(ids_of(ask(server.grpc_url, PROMPT, {"max_tokens": 3, "ignore_eos": True}))) == 3
    server.stop()


def test_a_server_that_completes_no_configs_refuses_a_bare_one_and_says_what_to_paste(
    start_server: StartServer,
) -> None:
    server = start_server(
        arguments=("--disable-auto-complete-config",), config_text='backend: "python"\nmax_batch_size: 0\n'
    )
    server.wait_ended()
    log = server.log().replace("\\n", "\n").replace('\\"', '"')
    assert config_pbtxt() in log


def test_a_bare_config_is_completed(start_server: StartServer) -> None:
    server = start_server(config_text='backend: "python"\n')
    server.wait_ready()
    assert len(ids_of(ask(server.grpc_url, PROMPT, {"max_tokens": 3, "ignore_eos": True}))) == 3
    server.stop()


def test_a_stop_leaves_nothing_behind(start_server: StartServer) -> None:
    server = start_server(instances=2)
    server.wait_ready()
    ask(server.grpc_url, PROMPT, {"max_tokens": 3})
    children = server.descendants()
    assert len(children) >= 3  # two stubs and the engine
    regions = [path for pid in children for path in shared_memory_of(pid)]
    assert len(regions) == 2
    server.stop()
    wait_for(lambda: not [pid for pid in children if is_running(pid)])
    assert not [path for path in regions if path.exists()]


def test_a_wrong_model_directory_fails_the_load_by_name(start_server: StartServer) -> None:
    server = start_server({"model": "/no/such/model"})
    server.wait_ended()
    assert "/no/such/model is no directory" in server.log()


def test_a_tensor_parameter_equal_to_the_json_one(server: LiveServer) -> None:
    (answer,) = ask(server.grpc_url, PROMPT, {"temperature": 0.1, "max_tokens": 2}, temperature=np.float32(0.1))
    assert not answer.error
