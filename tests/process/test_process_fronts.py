"""One engine process and its fronts: requests go in, tokens come back."""

from __future__ import annotations

from echo_core import token
from engine_host import Host, wait_until
from recording_front import request

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
    client.close()
    assert host.files() == []
    assert not recorder.failed
    wait_until(lambda: not host.engine_pids(), "the engine's end")
