"""A soak's accounting: what is lost, short, doubled or contradicted is found; what has its reason is not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from benchmarks.soak.health import Held, growth
from benchmarks.soak.http_client import answer_of
from benchmarks.soak.ledger import Ledger, Line, Outcome, judge, read_lines, summed
from benchmarks.soak.traffic import SHARES, Kind, Planned, plan_round
from benchmarks.suite.load.calls import Answer, Call

FULL = "the queue is full: 16 requests wait [UNAVAILABLE]"
ENGINE_GONE = "the engine process died (exit code -9) [INTERNAL]"


def planned(kind: Kind = Kind.PLAIN, tokens: int = 10, request_id: str = "soak-0-1") -> Planned:
    return Planned(request_id, kind, Call(0.0, (), tokens), tokens)


def answer(tokens: int = 0, finish: str = "length", **more: object) -> Answer:
    return Answer(0.0, 1.0, np.zeros(1), np.array([tokens], np.int32), finish if tokens else "", **more)  # type: ignore[arg-type]


def line(request_id: str, reason: str = "length", code: str = "OK", tokens: int = 10) -> str:
    fields = f"id={request_id} key=7 reason={reason} code={code} prompt_tokens=3 output_tokens={tokens} n=1 stream=true"
    return f'I1121 17:00:00.0 1 logs.py:51] "flover flover_0_0 v1: request {fields} total_ms=5.0"\n'


@pytest.mark.parametrize(
    ("kind", "got", "engine_faults", "outcome", "is_right"),
    [
        (Kind.PLAIN, answer(10), False, Outcome.FINISHED, True),
        (Kind.PLAIN, answer(9), False, Outcome.LOST, False),
        (Kind.PLAIN, answer(0), False, Outcome.LOST, False),
        (Kind.PLAIN, answer(10, "None"), False, Outcome.LOST, False),
        (Kind.SEVERAL, answer(10, "length,length"), False, Outcome.FINISHED, True),
        (Kind.STOP, answer(3, "stop"), False, Outcome.FINISHED, True),
        (Kind.STOP, answer(3, "None"), False, Outcome.LOST, False),
        (Kind.DEADLINE, answer(3, "deadline"), False, Outcome.FINISHED, True),
        (Kind.PLAIN, answer(3, "deadline"), False, Outcome.LOST, False),
        (Kind.DEADLINE, answer(code="UNAVAILABLE", message="the deadline passed"), False, Outcome.EXPIRED, True),
        (Kind.PLAIN, answer(code="UNAVAILABLE", message="the deadline passed"), False, Outcome.LOST, False),
        (Kind.PLAIN, answer(code="UNAVAILABLE", message=FULL), False, Outcome.REFUSED, True),
        (Kind.PLAIN, answer(code="DEADLINE_EXCEEDED", message=""), False, Outcome.LOST, False),
        (Kind.PLAIN, answer(2, code="INTERNAL", message=ENGINE_GONE), True, Outcome.FAILED, True),
        (Kind.PLAIN, answer(2, code="INTERNAL", message=ENGINE_GONE), False, Outcome.LOST, False),
        (Kind.PLAIN, answer(code="INTERNAL", message="cannot add"), True, Outcome.LOST, False),
        (Kind.PLAIN, answer(2, cancelled=True), False, Outcome.CANCELLED, True),
        (Kind.BAD, answer(code="INVALID_ARG", message="n: got 999"), False, Outcome.REFUSED, True),
        (Kind.BAD, answer(code="INTERNAL", message="cannot read"), False, Outcome.LOST, False),
        (Kind.BAD, answer(3), False, Outcome.FINISHED, False),
    ],
)
def test_what_became_of_a_request(
    kind: Kind, got: Answer, engine_faults: bool, outcome: Outcome, is_right: bool
) -> None:
    found, problem = judge(planned(kind), got, engine_faults=engine_faults)
    assert (found, not problem) == (outcome, is_right), problem


@pytest.mark.parametrize(
    ("got", "log", "problem"),
    [
        (answer(10), line("soak-0-1"), ""),
        (answer(10), "", "the log None"),
        (answer(10), line("soak-0-1", tokens=9), "output_tokens=9"),
        (answer(10), 2 * line("soak-0-1"), "2 lines in the log"),
        (answer(10), line("soak-0-1") + line("soak-0-2"), "soak-0-2: in the log, and nobody sent it"),
        (answer(code="UNAVAILABLE", message=FULL), line("soak-0-1", "queue_full", "UNAVAILABLE", 0), ""),
        (answer(code="UNAVAILABLE", message=FULL), "", ""),
        (answer(code="UNAVAILABLE", message=FULL), line("soak-0-1"), "the client was refused"),
        (answer(2, cancelled=True), "", ""),
        (answer(2, cancelled=True), line("soak-0-1", "cancelled", "CANCELLED", 2), ""),
    ],
)
def test_client_and_log_must_agree(got: Answer, log: str, problem: str) -> None:
    ledger = Ledger()
    ledger.enter([planned()], [got], log, engine_faults=False)
    assert problem in "".join(ledger.problems) if problem else not ledger.problems


def test_the_balance_counts_what_the_log_has_accepted() -> None:
    ledger = Ledger()
    ids = [f"soak-0-{n}" for n in range(4)]
    got = [answer(10), answer(4, cancelled=True), answer(code="UNAVAILABLE", message=FULL), answer(9)]
    log = line(ids[0]) + line(ids[1], "cancelled", "CANCELLED", 4) + line(ids[2], "queue_full", "UNAVAILABLE", 0)
    ledger.enter([planned(request_id=one) for one in ids], got, log + line(ids[3], tokens=9), engine_faults=False)
    assert ledger.balance == "1 finished + 1 cancelled + 0 failed = 3 accepted, BUT 1 ended otherwise"
    assert ledger.outcomes == {outcome: 1 for outcome in Outcome if outcome.name in "FINISHED CANCELLED REFUSED LOST"}
    assert len(ledger.problems) == 1


def test_a_deadline_without_a_token_has_failed_and_is_told_apart() -> None:
    ledger = Ledger()
    ids = [f"soak-0-{n}" for n in range(3)]
    got = [answer(3, "deadline"), answer(code="UNAVAILABLE", message="the deadline passed")]
    got.append(answer(2, code="INTERNAL", message=ENGINE_GONE))
    log = line(ids[0], "deadline", tokens=3) + line(ids[1], "deadline", "UNAVAILABLE", 0)
    log += line(ids[2], "internal", "INTERNAL", 2)
    kinds = (Kind.DEADLINE, Kind.DEADLINE, Kind.PLAIN)
    sent = [planned(kind, request_id=one) for kind, one in zip(kinds, ids, strict=True)]
    ledger.enter(sent, got, log, engine_faults=True)
    assert not ledger.problems
    assert ledger.balance == "1 finished + 0 cancelled + 2 failed (1 by their deadline without a token) = 3 accepted"
    assert summed(ledger.outcomes.items()) == (
        "1 finished, 1 failed by their deadline without a token, 1 failed with their engine"
    )


def test_lines_are_read_as_triton_writes_them() -> None:
    text = line("soak-0-1") + '"flover flover_0_1 v1: requests refused count=9 seconds=1.0 reason=queue_full"\n'
    assert read_lines(text + line("-")) == {"soak-0-1": [Line("length", "OK", 10)]}


def test_a_round_follows_from_its_seed_and_has_every_kind() -> None:
    rounds = [plan_round(1, 60.0, 5.0, 40, seed, "flover") for seed in (1, 1, 2)]
    assert rounds[0] == rounds[1] != rounds[2]
    assert Counter(one.kind for one in rounds[0]).keys() == SHARES.keys()
    assert sum(one.call.at == 24.0 for one in rounds[0]) == 40
    assert len({one.request_id for one in rounds[0]}) == len(rounds[0]) >= 240


def test_nobody_cancels_where_the_last_response_may_come() -> None:
    for engine_dies in (False, True):
        planned = plan_round(1, 60.0, 5.0, 40, 1, "flover", engine_dies=engine_dies)
        cancelled = [one.call for one in planned if one.kind is Kind.CANCELLED]
        assert all(call.new_tokens - (call.cancel_after or 0) >= 340 for call in cancelled)
        assert any(call.at > 30 for call in cancelled) is not engine_dies


def test_http_answers() -> None:
    event = '{"num_output_tokens": %d, "finish_reason": "%s", "output_ids": [5]}'
    whole = answer_of(event % (12, "length"), 0.0, 1.0)
    assert (whole.num_tokens, whole.finish, whole.code) == (12, "length", "")
    stream = answer_of(f"data: {event % (1, 'None')}\n\ndata: {event % (2, 'length')}\n\n", 0.0, 1.0)
    assert (stream.num_tokens, stream.finish, len(stream.times)) == (3, "length", 2)
    refused = answer_of(f'{{"error": "{FULL}"}}', 0.0, 1.0)
    assert (refused.code, refused.message) == ("UNAVAILABLE", FULL)
    assert answer_of("", 0.0, 1.0).code == "UNKNOWN"


def test_growth_is_found_from_the_third_round_on() -> None:
    flat = [Held(90.0, 99.0, 500.0, 200, 90, 2), Held(60.0, 80.0, 300.0, 120, 90, 2)]
    flat += [Held(60.0, 80.0, 280.0 + number, 120, 130, 2) for number in range(6)]
    assert growth(flat) == [] and growth(flat[:3]) == []
    leaking = [Held(60.0 + 40 * number, 80.0, 280.0, 120, 100 + 5 * number, 2) for number in range(8)]
    assert [problem.split()[0] for problem in growth(leaking)] == ["server_mib", "descriptors"]
