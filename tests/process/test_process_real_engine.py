"""The real engine in its process, on the bundled model: what the fakes of the other tests stand for."""

from __future__ import annotations

import pytest
from engine_host import Host, is_running, wait_until
from failing_engine import CUDA_ERROR
from recording_front import Recorder, request

from flover_backend.bundled import path_of
from flover_backend.config import ModelJson
from flover_backend.errors import ConfigError
from flover_backend.front.client import EngineClient

PROMPTS = [[100 + number, 200, 300, 17][: 2 + number % 3] for number in range(6)]


@pytest.mark.parametrize("model", ["llama-demo", pytest.param("gptj-demo", marks=pytest.mark.slow)])
def test_fused_requests_count_exactly_and_equal_lone_ones(host: Host, model: str) -> None:
    config = ModelJson(model=model, max_rows=4, kv_cache_tokens=2048)
    client = EngineClient.connect(config, path_of(model), "flover", "1", host.server.pid, "front", log=host.log.append)
    host.clients.append(client)
    recorder = Recorder()
    client.start(recorder)
    requests = [request(client, prompt, max_tokens=12, temperature=0.0, ignore_eos=True) for prompt in PROMPTS]
    for each in requests:
        client.submit(each)
    recorder.wait_finished(*(each.key for each in requests))
    for each in requests:
        alone = request(client, each.prompt_ids, max_tokens=12, temperature=0.0, ignore_eos=True)
        client.submit(alone)
        recorder.wait_finished(alone.key)
        assert recorder.tokens[each.key, 0] == recorder.tokens[alone.key, 0]
    with host.observe() as observer:
        wait_until(lambda: observer.metrics().gauges["flover_requests_running"] == 0, "the end")
        metrics, records = observer.metrics(), observer.iterations(0)
    assert len(recorder.queue_seconds) == 2 * len(PROMPTS)
    waited = metrics.counters["flover_queue_time_seconds_sum"]
    assert sum(recorder.queue_seconds.values()) == pytest.approx(waited) and waited > 0
    assert metrics.counters["vllm:prompt_tokens_total"] == 2 * sum(map(len, PROMPTS))
    assert metrics.counters["flover_prefill_tokens_total"] == 2 * sum(map(len, PROMPTS))
    assert metrics.counters["flover_decode_tokens_total"] == 2 * 12 * len(PROMPTS)
    assert metrics.counters["flover_integrity_failures_total"] == 0
    assert metrics.gauges["flover_kv_blocks_used"] == 0
    assert metrics.gauges["flover_kv_blocks_used_max"] >= 4
    assert metrics.counters["flover_iterations_total"] == len(records)
    assert max(record.num_live for record in records) == 4
    assert sum(record.prefill_tokens for record in records) == 2 * sum(map(len, PROMPTS))


def test_an_error_of_the_device_fails_all_fronts_and_ends_the_engine(host: Host) -> None:
    path, config = path_of("llama-demo"), ModelJson(device="cpu", max_rows=4, kv_cache_tokens=2048)
    clients = [host.connect(name, config, "failing_engine:load_raising", path) for name in ("one", "two")]
    recorders = [Recorder(), Recorder()]
    for client, recorder in zip(clients, recorders, strict=True):
        client.start(recorder)
        client.submit(request(client, [100, 200], max_tokens=100, ignore_eos=True))
    for recorder in recorders:
        recorder.wait(lambda recorder=recorder: recorder.failed, "the failure")
        assert recorder.failed == [f"the engine failed: AcceleratorError: {CUDA_ERROR}"]
        assert not recorder.finish
    wait_until(lambda: not is_running(clients[0].info.pid), "the engine's end")
    wait_until(lambda: host.files() == [], "no files left")


def test_a_model_directory_that_does_not_load_is_a_configuration_error(host: Host) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        EngineClient.connect(ModelJson(), host.model_dir, "flover", "1", host.server.pid, "front", log=host.log.append)
    assert host.files() == []


def test_an_interpreter_without_the_engine_s_packages_says_what_to_install(host: Host) -> None:
    with pytest.raises(ConfigError, match="has no module no_such_package: install flover-backend"):
        EngineClient.connect(
            ModelJson(),
            host.model_dir,
            "flover",
            "1",
            host.server.pid,
            "front",
            log=host.log.append,
            factory="no_such_package:load",
        )
