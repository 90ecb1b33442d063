"""One engine process and its fronts: requests go in, tokens come back; fronts come and go."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import time
from pathlib import Path

import msgspec
import pytest
from echo_core import token
from engine_host import Host, is_running, wait_until
from recording_front import Recorder, request

from flover_backend.channel import Cancel, encode
from flover_backend.config import ModelJson
from flover_backend.errors import EngineFailed
from flover_backend.request import FinishReason


def expected(prompt_ids: list[int], count: int, index: int = 0) -> list[int]:
    return [token(prompt_ids, index, position) for position in range(count)]


def test_one_front_gets_its_tokens_and_the_engine_ends_with_it(host: Host) -> None:
    client, recorder = host.attach()
    requests = [request(client, [5, 6, number], max_tokens=4 + number) for number in range(6)]
    for each in requests:
        client.submit(each)
    recorder.wait_finished(*(each.key for each in requests))
    for number, each in enumerate(requests):
        assert recorder.tokens[each.key, 0] == expected([5, 6, number], 4 + number)
        assert recorder.finish[each.key, 0] is FinishReason.LENGTH
    engine = client.info.pid
    client.close()
    assert host.files() == []
    assert not recorder.failed
    wait_until(lambda: not is_running(engine), "the engine's end")


def test_n_sequences_logprobs_and_stop_tokens_come_through(host: Host) -> None:
    client, recorder = host.attach()
    several = request(client, [1], max_tokens=3, n=3)
    with_logprobs = request(client, [50], max_tokens=2, logprobs=1)
    stopping = request(client, [10], max_tokens=9, stop_token_ids=(12,))
    for each in (several, with_logprobs, stopping):
        client.submit(each)
    recorder.wait_finished(several.key, with_logprobs.key, stopping.key)
    recorder.wait(lambda: (several.key, 2) in recorder.finish)
    assert [recorder.tokens[several.key, index] for index in range(3)] == [expected([1], 3, i) for i in range(3)]
    assert recorder.logprobs == [(-0.5, 1, [(50, -0.5)]), (-0.5, 1, [(51, -0.5)])]
    assert recorder.tokens[stopping.key, 0] == [10, 11, 12]
    assert recorder.finish[stopping.key, 0] is FinishReason.STOP


@pytest.mark.parametrize("count", [1, 2, 4])
def test_fronts_that_start_together_share_one_engine(host: Host, count: int) -> None:
    host.steer(load_s=0.3, max_queued_requests=64)
    fronts = [host.spawn_front(f"front_{number}", num_requests=5, max_tokens=20) for number in range(count)]
    engines = [front.engine_pid() for front in fronts]
    assert len(dict.fromkeys(engines)) == 1
    assert host.engine_pids() == engines[:1]
    for front in fronts:
        front.go()
    for front in fronts:
        assert front.line() == "running"
    results = [front.result() for front in fronts]
    for result in results:
        assert result["failed"] == []
        assert len(result["answers"]) == 5
        for prompt_ids, token_ids in result["answers"]:
            assert token_ids == expected(prompt_ids, 20)
    prompts = [answer[0] for result in results for answer in result["answers"]]
    assert len({tuple(prompt) for prompt in prompts}) == 5 * count, "each front has its own number"
    assert sum(result["leader"] for result in results) == 1
    for front in fronts:
        front.go()
        assert front.process.wait(30) == 0
    wait_until(lambda: not is_running(engines[0]), "the engine's end")
    assert host.files() == []


def test_an_instance_that_is_killed_loses_only_its_own_requests(host: Host) -> None:
    host.steer(step_s=0.005)
    client, recorder = host.attach()
    victim = host.spawn_front("victim", num_requests=3, max_tokens=1000)
    victim.engine_pid()
    victim.go()
    assert victim.line() == "running"
    own = request(client, [3], max_tokens=60)
    client.submit(own)
    victim.end()
    recorder.wait_finished(own.key)
    assert recorder.tokens[own.key, 0] == expected([3], 60)
    with host.observe() as observer:
        wait_until(lambda: observer.metrics().gauges["flover_requests_running"] == 0, "the victim's requests' end")
        finished = observer.metrics().counters
        assert finished['flover_requests_finished_total{reason="cancelled"}'] == 3
    assert not recorder.failed


def test_cancel_while_running_and_while_queued(host: Host) -> None:
    host.steer(step_s=0.005, max_rows=1)
    client, recorder = host.attach()
    running, queued, after = (request(client, [number], max_tokens=500) for number in range(3))
    for each in (running, queued):
        client.submit(each)
    recorder.wait(lambda: (running.key, 0) in recorder.tokens)
    client.cancel(queued.key)
    recorder.wait_ended(queued.key)
    client.cancel(running.key)
    recorder.wait_ended(running.key)
    client.cancel(running.key)
    client.submit(msgspec.structs.replace(after, params=msgspec.structs.replace(after.params, max_tokens=2)))
    recorder.wait_finished(after.key)
    assert recorder.ended[queued.key] == ("CANCELLED", "the client is gone", "cancelled")
    assert recorder.ended[running.key] == ("CANCELLED", "the client is gone", "cancelled")
    assert (queued.key, 0) not in recorder.tokens


def test_refusals_reach_the_request_alone(host: Host) -> None:
    host.steer(step_s=0.01, max_rows=1, max_queued_requests=2)
    client, recorder = host.attach()
    running = request(client, [1], max_tokens=40)
    client.submit(running)
    recorder.wait(lambda: (running.key, 0) in recorder.tokens)
    waiting = [request(client, [number], max_tokens=1) for number in (10, 11)]
    surplus, too_long, broken = request(client, [12]), request(client, [0] * 2000), request(client, [666])
    for each in (*waiting, surplus, too_long, broken):
        client.submit(each)
    recorder.wait_ended(surplus.key, too_long.key, broken.key)
    assert recorder.ended[surplus.key] == ("UNAVAILABLE", "2 requests wait; allowed are 2", "refused")
    assert recorder.ended[too_long.key][0] == "INVALID_ARG"
    assert recorder.ended[broken.key][0] == "INTERNAL"
    recorder.wait(lambda: any(not status.accepting for status in recorder.statuses), "the status full")
    recorder.wait_finished(running.key, *(each.key for each in waiting))
    recorder.wait(lambda: recorder.statuses[-1].accepting, "the status has room")
    full, room = recorder.statuses[0], recorder.statuses[-1]
    assert (full.accepting, full.num_waiting_requests, full.draining) == (False, 2, False)
    assert (room.accepting, room.draining) == (True, False)
    with host.observe() as observer:
        counters = observer.metrics().counters
    assert counters['flover_requests_rejected_total{reason="queue_full"}'] == 1
    assert counters['flover_requests_rejected_total{reason="invalid_arg"}'] == 1
    assert counters['flover_requests_rejected_total{reason="internal"}'] == 1


def context_switches(pid: int) -> int:
    """Of the main thread; the other one sends a heartbeat now and then."""
    lines = Path(f"/proc/{pid}/task/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "voluntary_ctxt_switches" in line)


def test_an_idle_engine_sleeps(host: Host) -> None:
    client, recorder = host.attach()
    each = request(client, [1], max_tokens=3)
    client.submit(each)
    recorder.wait(lambda: recorder.metrics and recorder.metrics[-1].counters["flover_decode_tokens_total"] == 3)
    time.sleep(0.1)
    before = context_switches(client.info.pid)
    time.sleep(0.4)
    assert context_switches(client.info.pid) == before, "the main thread woke up"


def test_another_configuration_has_another_engine(host: Host) -> None:
    first, second = host.connect(), host.connect(config=ModelJson(max_rows=4))
    assert first.info.pid != second.info.pid
    (host.model_dir / "model.safetensors").write_bytes(b"other weights")
    third = host.connect()
    assert third.info.pid not in (first.info.pid, second.info.pid)


def test_a_front_that_comes_while_the_engine_ends_gets_a_new_one(host: Host) -> None:
    for _ in range(8):
        client, recorder = host.attach()
        each = request(client, [1, 2], max_tokens=2)
        client.submit(each)
        recorder.wait_finished(each.key)
        client._closing = True
        client._socket.shutdown(socket.SHUT_RDWR)  # gone without waiting: the engine notices while the next one comes
    wait_until(lambda: host.files() == [], "no files left")


def test_a_handler_that_raises_ends_its_front_alone(host: Host) -> None:
    host.steer(step_s=0.005)
    client, recorder = host.attach("good")
    clumsy, broken = host.connect("clumsy"), Recorder()
    broken.on_tokens = lambda *news: {}["x"]  # type: ignore[method-assign]
    clumsy.start(broken)
    clumsy.submit(request(clumsy, [1], max_tokens=1000))
    broken.wait(lambda: broken.failed, "the failure")
    assert broken.failed == ["the engine's messages could not be handled: KeyError('x')"]
    each = request(client, [1], max_tokens=3)
    client.submit(each)
    recorder.wait_finished(each.key)
    with host.observe() as observer:
        wait_until(lambda: observer.metrics().gauges["flover_requests_running"] == 0, "the clumsy one's request's end")


def test_every_request_ends_exactly_once_whatever_its_front_does(host: Host) -> None:
    host.steer(max_rows=4, max_queued_requests=40)
    choose = random.Random(3)
    fronts = [host.attach(f"front_{number}") for number in range(3)]
    submitted: list[tuple[Recorder, int, int]] = []
    for _ in range(300):
        client, recorder = choose.choice(fronts)
        each = request(client, [choose.randrange(9)], max_tokens=choose.randrange(1, 30), n=choose.choice((1, 1, 3)))
        client.submit(each)
        submitted.append((recorder, each.key, each.params.n))
        if choose.random() < 0.3:
            client.cancel(each.key)
        if choose.random() < 0.3:
            client.finish(each.key, 0, choose.randrange(5))
        if choose.random() < 0.1:
            time.sleep(0.003)
    for recorder, key, n in submitted:
        recorder.wait(lambda r=recorder, k=key, n=n: k in r.ended or all((k, i) in r.finish for i in range(n)))
    with host.observe() as observer:
        assert observer.drain(10.0).ended == 0
        counters = observer.metrics().counters
    time.sleep(0.05)
    whole = sum(key in recorder.ended for recorder, key, _ in submitted)
    assert sum(len(recorder.ended) for _, recorder in fronts) == whole
    assert all(recorder.num_ends_twice == 0 and not recorder.failed for _, recorder in fronts)
    ends = sum(n for name, n in counters.items() if re.match("flover_requests_(finished|rejected)_total", name))
    assert ends == len(submitted)
    assert counters["flover_integrity_failures_total"] == 0


def test_submit_after_the_engine_was_killed_raises_and_files_go(host: Host) -> None:
    client, recorder = host.attach()
    os.kill(client.info.pid, signal.SIGKILL)
    recorder.wait(lambda: recorder.failed, "the failure")
    assert len(recorder.failed) == 1
    assert "is gone" in recorder.failed[0]
    with pytest.raises(EngineFailed, match="is gone"):
        client.submit(request(client, [1]))
    client.cancel(1)
    wait_until(lambda: host.files() == [], "no files left")


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\x03\x00\x00\x00\xc1\xc1\xc1",
        encode(Cancel(1)),
    ],
    ids=["http", "oversized", "undecodable", "no hello"],
)
def test_a_peer_that_sends_garbage_is_dropped_alone(host: Host, garbage: bytes) -> None:
    client, recorder = host.attach()
    stranger = client._attachment.files.connect()
    assert stranger is not None
    stranger.sendall(garbage)
    assert stranger.recv(100) == b""
    each = request(client, [9], max_tokens=3)
    client.submit(each)
    recorder.wait_finished(each.key)
    stranger.close()


def test_a_silent_stranger_does_not_keep_the_engine(host: Host) -> None:
    client, _ = host.attach()
    stranger = client._attachment.files.connect()
    assert stranger is not None
    engine = client.info.pid
    time.sleep(0.1)
    client.close()
    wait_until(lambda: not is_running(engine), "the engine's end")
    stranger.close()
