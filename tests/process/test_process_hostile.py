"""A front or a tool that misbehaves on the engine's socket: it is refused or dropped, and others get their tokens."""

from __future__ import annotations

import math
import os
import random
import socket
import time
from collections.abc import Iterator

import msgspec
import pytest
from echo_core import VOCAB_SIZE, token
from engine_host import Host, is_running, wait_until
from recording_front import Recorder, request

from flover_backend.channel import (
    Cancel,
    Drain,
    Finish,
    FrameReader,
    FrontStats,
    GetMetrics,
    Hello,
    Metrics,
    MetricsWritten,
    Ready,
    Refused,
    Submit,
    ToEngine,
    ToFront,
    Tokens,
    encode,
)
from flover_backend.front.client import EngineClient
from flover_backend.observer import find_engines
from flover_backend.request import FinishReason, Request, SamplingParams


class Peer:
    """Any bytes to the engine, and its answers."""

    def __init__(self, client: EngineClient, role: str = "front", number_of: int = 0) -> None:
        connection = client._attachment.files.connect()
        assert connection is not None
        self.socket: socket.socket = connection
        self.socket.settimeout(30)
        self.reader = FrameReader(engine_side=False)
        self.messages: list[ToFront] = []
        self.send(Hello(role, "hostile", os.getpid()))
        self.number = self.await_(Ready).info.front_number

    def send(self, *messages: ToEngine) -> None:
        self.socket.sendall(b"".join(map(encode, messages)))

    def await_(self, kind: type[ToFront]) -> ToFront:
        while True:
            for message in self.messages:
                if isinstance(message, kind):
                    self.messages.remove(message)
                    return message
            data = self.socket.recv(1 << 16)
            assert data, "the engine has dropped this peer"
            self.messages += self.reader.feed(data)  # type: ignore[arg-type]

    def is_dropped(self) -> bool:
        while True:
            try:
                if not self.socket.recv(1 << 16):
                    return True
            except ConnectionError:
                return True

    def key(self, count: int = 1) -> int:
        return (self.number << 40) + count


@pytest.fixture
def served(host: Host) -> Iterator[tuple[EngineClient, Recorder]]:
    """A good front; behind the test its engine is the same one, and answers."""
    client, recorder = host.attach("good")
    yield client, recorder
    assert_serves(client, recorder)
    assert host.engine_pids() == [client.info.pid]
    assert not recorder.failed
    assert recorder.num_ends_twice == 0


def assert_serves(client: EngineClient, recorder: Recorder) -> None:
    each = request(client, [5, 6], max_tokens=4)
    client.submit(each)
    recorder.wait_finished(each.key)
    assert recorder.tokens[each.key, 0] == [token([5, 6], 0, position) for position in range(4)]


BAD_PARAMS: dict[str, dict[str, object]] = {
    "max_tokens 0": {"max_tokens": 0},
    "max_tokens beyond the limit": {"max_tokens": 2**40},
    "max_tokens negative": {"max_tokens": -(2**63)},
    "min_tokens above max_tokens": {"min_tokens": 9},
    "n beyond the rows": {"n": 2**62},
    "n 0": {"n": 0},
    "temperature NaN": {"temperature": math.nan},
    "temperature infinite": {"temperature": math.inf},
    "top_k beyond the vocabulary": {"top_k": 2**63},
    "top_k negative": {"top_k": -5},
    "top_p 0": {"top_p": 0.0},
    "top_p NaN": {"top_p": math.nan},
    "min_p": {"min_p": 1.5},
    "repetition_penalty": {"repetition_penalty": math.nan},
    "presence_penalty": {"presence_penalty": -math.inf},
    "frequency_penalty": {"frequency_penalty": 1e308},
    "seed negative": {"seed": -1},
    "logprobs": {"logprobs": 10**6},
    "stop_token_ids beyond the vocabulary": {"stop_token_ids": (VOCAB_SIZE,), "min_tokens": 1},
    "stop_token_ids too many": {"stop_token_ids": tuple(range(65))},
    "logit_bias beyond the vocabulary": {"logit_bias": {2**40: 1.0}},
    "logit_bias of a negative token": {"logit_bias": {-1: 1.0}},
    "logit_bias NaN": {"logit_bias": {1: math.nan}},
    "logit_bias of thousands": {"logit_bias": dict.fromkeys(range(1025), 0.0)},
}


def submit(key: int, prompt_ids: list[int], arrival: float | None = None, **params: object) -> Submit:
    arrival_time = time.monotonic() if arrival is None else arrival
    given = SamplingParams(**({"max_tokens": 3} | params))  # type: ignore[arg-type]
    return Submit(Request(key=key, prompt_ids=prompt_ids, params=given, arrival_time=arrival_time))


def test_values_out_of_range_are_refused_by_name(host: Host, served: tuple[EngineClient, Recorder]) -> None:
    peer = Peer(served[0])
    for count, (name, params) in enumerate(BAD_PARAMS.items(), start=1):
        peer.send(submit(peer.key(count), [1, 2], **params))
        refused = peer.await_(Refused)
        assert isinstance(refused, Refused)
        assert (refused.key, refused.code) == (peer.key(count), "INVALID_ARG"), name
        assert name.split()[0] in refused.message, refused.message
    for prompt, said in (([], "prompt_ids"), ([VOCAB_SIZE], "1000"), ([-1], "-1"), ([2**63], "prompt_ids")):
        peer.send(submit(peer.key(500), prompt))
        assert said in peer.await_(Refused).message  # type: ignore[union-attr]
    for arrival in (math.nan, math.inf, -1.0, time.monotonic() + 1e6):
        peer.send(submit(peer.key(501), [1], arrival))
        assert "arrival_time" in peer.await_(Refused).message  # type: ignore[union-attr]
    bad = submit(peer.key(502), [1]).request
    peer.send(Submit(msgspec.structs.replace(bad, deadline=math.nan)))
    assert "deadline" in peer.await_(Refused).message  # type: ignore[union-attr]
    peer.send(submit(peer.key(503), [7]))
    assert peer.await_(Tokens)
    with host.observe() as observer:
        assert observer.metrics().gauges["flover_kv_blocks_used"] == 0


def test_keys_of_others_are_out_of_reach(host: Host, served: tuple[EngineClient, Recorder]) -> None:
    host.steer(step_s=0.002)
    client, recorder = served
    peer = Peer(client)
    theirs = request(client, [9], max_tokens=300)
    client.submit(theirs)
    recorder.wait(lambda: (theirs.key, 0) in recorder.tokens, "the first token")
    peer.send(Cancel(theirs.key), Finish(theirs.key, 0, 1), submit(theirs.key, [1]), Cancel(-1), Cancel(2**64 - 1))
    for key in (theirs.key, -1, 0, 2**64 - 1, (peer.number + 1) << 40):
        peer.send(submit(key, [1]))
        while True:
            refused = peer.await_(Refused)
            assert isinstance(refused, Refused) and refused.code == "INVALID_ARG"
            if refused.key == key:
                break
    recorder.wait_finished(theirs.key)
    assert recorder.tokens[theirs.key, 0] == [token([9], 0, position) for position in range(300)]
    assert recorder.finish[theirs.key, 0] is FinishReason.LENGTH


def test_what_an_observer_may_not_say_changes_nothing(host: Host, served: tuple[EngineClient, Recorder]) -> None:
    client, _ = served
    peer = Peer(client, "observer")
    forged = FrontStats(10**6, {"invalid_arg": 10**6, 'x"} 1\nforged': 5})
    peer.send(forged, MetricsWritten(1), Cancel(1), Finish(1, 0, 0), submit(peer.key(), [1]))
    assert peer.await_(Refused)
    peer.send(GetMetrics())
    metrics = peer.await_(Metrics)
    assert isinstance(metrics, Metrics)
    assert metrics.counters["flover_coalesced_responses_total"] == 0
    assert metrics.counters['flover_requests_rejected_total{reason="invalid_arg"}'] <= 1


def test_a_front_names_only_reasons_that_are_known(host: Host, served: tuple[EngineClient, Recorder]) -> None:
    peer = Peer(served[0])
    peer.send(FrontStats(0, {'x"} 1\nforged': 5, "invalid_arg": 2}), GetMetrics())
    metrics = peer.await_(Metrics)
    assert isinstance(metrics, Metrics)
    assert not any("forged" in name for name in metrics.counters)
    assert metrics.counters['flover_requests_rejected_total{reason="internal"}'] == 5
    assert metrics.counters['flover_requests_rejected_total{reason="invalid_arg"}'] == 2


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff",
        (2_000).to_bytes(4, "little") + b"\x93\xa6cancel\x01" + b"\x91" * 1991,
        encode(Drain(math.nan)),
        encode(Finish(1, 0, -5)),
        encode(Hello("front", "again", 1)),
        b"\x08\x00\x00\x00\x92\xa6can\xffel\x01",
    ],
    ids=["huge length", "nested deep", "drain NaN", "negative count", "hello again", "not UTF-8"],
)
def test_garbage_after_a_hello_drops_the_peer_alone(served: tuple[EngineClient, Recorder], garbage: bytes) -> None:
    peer = Peer(served[0])
    peer.socket.sendall(garbage)
    assert peer.is_dropped()


def test_peers_that_vanish_at_once_leave_no_ghost(host: Host) -> None:
    """One that is gone before its greeting is sent once became a front for ever: the metrics' leader, and nobody."""
    host.steer(load_s=1.0)
    holder = host.spawn_front("holder")
    wait_until(lambda: find_engines(host.server.pid), "the engine's description")
    (found,) = find_engines(host.server.pid)
    for _ in range(20):
        stranger = found.files.connect()
        assert stranger is not None
        with stranger:
            stranger.sendall(encode(Hello("front", "ghost", os.getpid())))
    engine = holder.engine_pid()
    client, recorder = host.attach()
    assert_serves(client, recorder)
    holder.process.kill()
    holder.process.wait()
    recorder.wait(lambda: recorder.leader, "the lead")
    client.close()
    wait_until(lambda: not is_running(engine), "the engine's end")


def test_random_damage_never_reaches_the_good_front(host: Host, served: tuple[EngineClient, Recorder]) -> None:
    """Some hundred damaged streams of messages; after each fifty, and at the end, the good front is served."""
    chance = random.Random(7)
    client, recorder = served
    for round_ in range(300):
        peer = Peer(client, chance.choice(["front", "front", "observer"]))
        messages = [
            submit(peer.key(1), [1, 2], max_tokens=2),
            Cancel(peer.key(1)),
            Finish(peer.key(1), 0, 1),
            FrontStats(1, {"internal": 1}),
            GetMetrics(),
        ]
        stream = bytearray(b"".join(map(encode, messages)))
        for _ in range(chance.randint(1, 6)):
            stream[chance.randrange(len(stream))] = chance.randrange(256)
        peer.socket.sendall(stream)
        if chance.random() < 0.5:
            peer.socket.shutdown(socket.SHUT_WR)
            assert peer.is_dropped()
        peer.socket.close()
        if round_ % 50 == 0:
            assert_serves(client, recorder)
    with host.observe() as observer:
        wait_until(lambda: observer.metrics().gauges["flover_requests_running"] == 0, "the end of all")
        assert observer.metrics().counters["flover_integrity_failures_total"] == 0
