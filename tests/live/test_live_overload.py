"""Many times more requests than two rows and a queue of four can serve: refused with the depth, or served whole."""

from __future__ import annotations

import re

from live_metrics import finished, value, wait_idle, wait_settled
from live_server import LiveServer, wait_for

from benchmarks.pa.run import Target
from benchmarks.suite.load.calls import Call
from benchmarks.suite.load.generator import send_calls
from benchmarks.suite.workloads import prompt_ids

DEPTH = re.compile(r"the queue is full: (\d+) requests")


def test_what_is_accepted_is_served_whole_and_the_rest_is_refused_with_the_depth(small_server: LiveServer) -> None:
    wait_settled(small_server)
    refused_before = value(small_server, "flover_requests_rejected_total", reason="queue_full")
    finished_before = finished(small_server, "length")
    lengths = [40 + number % 7 for number in range(80)]
    prompts = prompt_ids([3 + number % 5 for number in range(80)], 500, 1)
    calls = [Call(0.01 * n, *one, streams=n % 2 == 0) for n, one in enumerate(zip(prompts, lengths, strict=True))]
    answers = send_calls(Target(small_server.grpc_url), calls, processes=1)
    accepted = [n for n, answer in enumerate(answers) if not answer.code]
    refused = [answer for answer in answers if answer.code]
    assert len(accepted) >= 6  # two rows and four places were free
    assert [answers[n].num_tokens for n in accepted] == [lengths[n] for n in accepted]
    assert refused and {answer.code for answer in refused} == {"UNAVAILABLE"}
    depths = [DEPTH.search(answer.message) for answer in refused]
    assert all(depth and 4 <= int(depth[1]) <= len(calls) for depth in depths), {a.message for a in refused}
    wait_idle(small_server)
    wait_for(lambda: finished(small_server, "length") == finished_before + len(accepted))
    counted = lambda: value(small_server, "flover_requests_rejected_total", reason="queue_full")  # noqa: E731
    wait_for(lambda: counted() == refused_before + len(refused))


def test_users_who_wait_for_their_answers_are_never_refused(small_server: LiveServer) -> None:
    """As many users as rows and places in the queue but one: the queue is never full."""
    prompts = prompt_ids([5] * 25, 500, 1)
    calls = [Call(0.05 * n, prompt, 12) for n, prompt in enumerate(prompts)]
    answers = send_calls(Target(small_server.grpc_url), calls, processes=2, users=5)
    assert [(answer.code, answer.num_tokens) for answer in answers] == [("", 12)] * 25
    changes = sorted([(a.sent, 1) for a in answers] + [(a.ended, -1) for a in answers])
    together, most = 0, 0
    for _, change in changes:
        together += change
        most = max(most, together)
    assert most <= 5
