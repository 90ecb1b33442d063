"""What the engine counts, to whom it tells it, the ring and the drain."""

from __future__ import annotations

import threading

import pytest
from engine_host import Host, wait_until
from recording_front import Recorder, request

from flover_backend.channel import Drained, Metrics
from flover_backend.metric_families import declared, parse_series
from flover_backend.request import FinishReason


def idle_snapshot(recorder: Recorder, finished: int) -> Metrics:
    """The leader's first snapshot of an idle engine that has ended `finished` requests."""

    def found() -> Metrics | None:
        for metrics in recorder.metrics:
            ended = sum(n for name, n in metrics.counters.items() if name.startswith("flover_requests_finished_total"))
            if ended == finished and not metrics.gauges["flover_requests_running"]:
                return metrics
        return None

    recorder.wait(found, "snapshot of the idle engine")
    metrics = found()
    assert metrics is not None
    return metrics


def test_counts_are_exact_with_a_preemption_and_n_sequences(host: Host) -> None:
    host.steer(max_rows=4, preempt_at_token=3, max_queued_requests=64)
    client, recorder = host.attach()
    requests = [request(client, list(range(25)), max_tokens=10) for _ in range(12)]
    requests.append(request(client, [7] * 11, max_tokens=6, n=3))
    for each in requests:
        client.submit(each)
    recorder.wait_finished(*(each.key for each in requests))
    metrics = idle_snapshot(recorder, 13)
    counters = metrics.counters
    assert counters["vllm:prompt_tokens_total"] == 12 * 25 + 11
    assert counters["vllm:generation_tokens_total"] == 12 * 10 + 3 * 6
    assert counters["flover_decode_tokens_total"] == 12 * 10 + 3 * 6
    assert counters["flover_preemptions_total"] == 1
    assert counters["flover_prefill_tokens_total"] == 12 * 25 + 11 + (25 + 3), "the preempted one is computed again"
    assert counters['flover_requests_finished_total{reason="length"}'] == 13
    assert counters["flover_time_to_first_token_seconds_count"] == 13
    assert counters["vllm:time_to_first_token_seconds_count"] == 13
    assert counters["flover_queue_time_seconds_count"] == 13
    assert counters["flover_e2e_latency_seconds_count"] == 13
    assert counters["flover_inter_token_latency_seconds_count"] == 12 * 9 + 3 * 5
    assert counters['vllm:time_per_output_token_seconds_bucket{le="+Inf"}'] == 12 * 9 + 3 * 5
    assert counters["flover_iteration_rows_count"] == counters["flover_iterations_total"]
    assert counters["flover_iteration_rows_sum"] == 12 * 10 + 3 * 6
    assert counters["flover_integrity_failures_total"] == 0
    gauges = metrics.gauges
    assert gauges["flover_requests_waiting"] == gauges["flover_kv_blocks_used"] == 0
    assert gauges["flover_kv_blocks_used_max"] == 8
    assert gauges['nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max"}'] == 64
    assert gauges['nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}'] == 0
    assert gauges['nv_trt_llm_request_metrics{request_type="active"}'] == 0


def test_every_series_belongs_to_a_declared_family(host: Host) -> None:
    _, recorder = host.attach()
    recorder.wait(lambda: recorder.metrics, "a first snapshot, before any request")
    metrics = recorder.metrics[0]
    families = {family.name: family for family in declared()}
    for kind, values in (("counter", metrics.counters), ("gauge", metrics.gauges)):
        for text in values:
            name, labels = parse_series(text)
            assert families[name].kind == kind
            assert tuple(labels) == families[name].labels
    names = {parse_series(text)[0] for text in (*metrics.counters, *metrics.gauges)}
    assert sorted(names) == sorted(name for name, family in families.items() if not family.by_fronts)
    assert (
        metrics.gauges[
            'flover_model_info{block_size="16",dtype="float32",max_model_len="1024",max_rows="8",reorder="rows"}'
        ]
        == 1
    )


def test_tokens_after_a_stop_string_are_not_counted(host: Host) -> None:
    host.steer(step_s=0.005)
    client, recorder = host.attach()
    each = request(client, [1, 2, 3], max_tokens=200, has_stop_strings=True)
    client.submit(each)
    recorder.wait(lambda: len(recorder.tokens.get((each.key, 0), [])) >= 8, "eight tokens")
    client.finish(each.key, 0, 6)
    recorder.wait_finished(each.key)
    assert recorder.finish[each.key, 0] is FinishReason.STOP
    counters = idle_snapshot(recorder, 1).counters
    assert counters["vllm:generation_tokens_total"] == counters["flover_decode_tokens_total"] == 6
    assert counters['flover_requests_finished_total{reason="stop"}'] == 1
    totals = [metrics.counters["flover_decode_tokens_total"] for metrics in recorder.metrics]
    assert totals == sorted(totals), "a counter never falls"


def test_a_stop_string_found_after_the_engine_s_end_counts_too(host: Host) -> None:
    client, recorder = host.attach()
    late, unstopped = (request(client, [1], max_tokens=9, has_stop_strings=True) for _ in range(2))
    for each in (late, unstopped):
        client.submit(each)
    recorder.wait_finished(late.key, unstopped.key)
    client.finish(late.key, 0, 4)
    counters = idle_snapshot(recorder, 2).counters
    assert counters["flover_decode_tokens_total"] == 4 + 9
    assert counters['flover_requests_finished_total{reason="stop"}'] == 1
    assert counters['flover_requests_finished_total{reason="length"}'] == 1


def test_fronts_report_what_only_they_can_count(host: Host) -> None:
    client, recorder = host.attach()
    client.front_stats(coalesced_responses=5, rejected={"invalid_arg": 2})
    client.front_stats(coalesced_responses=1, rejected={"draining": 1})
    name = "flover_coalesced_responses_total"
    recorder.wait(lambda: recorder.metrics and recorder.metrics[-1].counters[name] == 6, "the snapshot")
    counters = recorder.metrics[-1].counters
    assert counters['flover_requests_rejected_total{reason="invalid_arg"}'] == 2
    assert counters['flover_requests_rejected_total{reason="draining"}'] == 1


def test_the_next_front_takes_the_metrics_over(host: Host) -> None:
    first, one = host.attach("one")
    second, two = host.attach("two")
    third, three = host.attach("three")
    each = request(second, [1, 2], max_tokens=3)
    second.submit(each)
    two.wait_finished(each.key)
    metrics = idle_snapshot(one, 1)
    assert one.leader == [None]
    assert two.leader == three.leader == []
    assert two.metrics == three.metrics == []
    first.metrics_written(metrics.sequence)
    second.metrics_written(metrics.sequence + 1)  # it does not lead: ignored
    first.close()
    two.wait(lambda: two.metrics, "the new leader's snapshot")
    assert two.leader == [metrics]
    assert two.metrics[0].sequence > metrics.sequence
    assert two.metrics[0].counters["flover_decode_tokens_total"] == 3
    third.close()
    second.close()
    assert three.leader == []


def test_a_running_engine_tells_the_leader_every_half_second(host: Host) -> None:
    host.steer(step_s=0.02)
    client, recorder = host.attach()
    each = request(client, [1], max_tokens=80)
    client.submit(each)
    recorder.wait_finished(each.key)
    idle_snapshot(recorder, 1)
    totals = [metrics.counters["flover_decode_tokens_total"] for metrics in recorder.metrics]
    assert any(0 < total < 80 for total in totals)
    assert [metrics.sequence for metrics in recorder.metrics] == list(range(1, len(totals) + 1))


def test_a_leak_is_counted_and_the_engine_goes_on(host: Host) -> None:
    host.steer(leak=True)
    client, recorder = host.attach()
    for number in range(2):
        each = request(client, [number], max_tokens=2)
        client.submit(each)
        recorder.wait_finished(each.key)
        assert idle_snapshot(recorder, number + 1).counters["flover_integrity_failures_total"] == number + 1


def test_the_ring_tells_each_iteration(host: Host) -> None:
    client, recorder = host.attach()
    requests = [request(client, [1] * 4, max_tokens=length) for length in (5, 9)]
    for each in requests:
        client.submit(each)
    recorder.wait_finished(*(each.key for each in requests))
    with host.observe() as observer:
        records = observer.iterations(0)
        assert observer.iterations(records[3].step) == records[3:]
        assert observer.iterations(records[-1].step + 1) == []
    assert sum(record.decode_tokens for record in records) == 14
    assert sum(record.prefill_tokens for record in records) == 8
    assert sum(record.joins for record in records) == sum(record.leaves for record in records) == 2
    assert [record.step for record in records] == list(range(records[0].step, records[0].step + len(records)))


def drain_in_background(host: Host, timeout_s: float, answers: list[Drained]) -> threading.Thread:
    def drain() -> None:
        with host.observe() as observer:
            answers.append(observer.drain(timeout_s))

    thread = threading.Thread(target=drain)
    thread.start()
    return thread


def test_a_drain_lets_running_requests_finish_and_refuses_new_ones(host: Host) -> None:
    host.steer(step_s=0.005)
    client, recorder = host.attach()
    running = [request(client, [number], max_tokens=100) for number in range(3)]
    for each in running:
        client.submit(each)
    recorder.wait(lambda: len(recorder.tokens) == 3, "tokens")
    answers: list[Drained] = []
    thread = drain_in_background(host, 20.0, answers)
    recorder.wait(lambda: recorder.statuses, "the status")
    assert recorder.drains == 1
    assert recorder.statuses[0].draining
    assert not recorder.statuses[0].accepting
    late = request(client, [9])
    client.submit(late)
    recorder.wait_ended(late.key)
    assert recorder.ended[late.key] == ("UNAVAILABLE", "the server is draining: new requests are refused", "refused")
    recorder.wait_finished(*(each.key for each in running))
    thread.join()
    assert answers == [Drained(finished=3, ended=0)]
    _, newcomer = host.attach("newcomer")
    newcomer.wait(lambda: newcomer.statuses, "the newcomer's status")
    assert newcomer.statuses[0].draining
    with host.observe() as observer:
        assert observer.drain(0.0) == Drained(finished=3, ended=0), "a second drain is answered too"
        assert observer.metrics().counters['flover_requests_rejected_total{reason="draining"}'] == 1


def test_a_drain_ends_what_does_not_finish_in_time(host: Host) -> None:
    host.steer(step_s=0.005, max_rows=1)
    client, recorder = host.attach()
    running, queued = request(client, [1], max_tokens=1000), request(client, [2], max_tokens=1000)
    for each in (running, queued):
        client.submit(each)
    recorder.wait(lambda: recorder.tokens, "tokens")
    with host.observe() as observer:
        assert observer.drain(0.1) == Drained(finished=0, ended=2)
        assert observer.metrics().counters['flover_requests_finished_total{reason="shutdown"}'] == 2
    recorder.wait_ended(running.key, queued.key)
    text = "the server shut down before the request was finished"
    assert recorder.ended[running.key] == recorder.ended[queued.key] == ("UNAVAILABLE", text, "shutdown")


@pytest.mark.parametrize("busy", [False, True])
def test_an_observer_does_not_keep_the_engine_alive(host: Host, busy: bool) -> None:
    host.steer(step_s=0.005)
    client, recorder = host.attach()
    observer = host.observe()
    if busy:
        client.submit(request(client, [1], max_tokens=1000))
        recorder.wait(lambda: recorder.tokens, "tokens")
    client.close()
    wait_until(lambda: host.files() == [], "no files left")
    observer.close()


def test_an_idle_engine_goes_on_saying_how_it_is(host: Host) -> None:
    """After a reload the engine that is replaced writes to the same gauges until it ends."""
    _, recorder = host.attach()
    recorder.wait(lambda: len(recorder.metrics) >= 3, "snapshots without any request")
    assert recorder.metrics[-1].gauges["flover_kv_blocks_free"] == recorder.metrics[0].gauges["flover_kv_blocks_free"]
