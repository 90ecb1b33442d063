"""Every request of a soak with what its client saw, against the server's log. Pure: no clock, no server.

A request is accounted for when its client got what it asked for, cancelled it, or was told why not, and the server's
log says the same in one line. Accepted is what has a line that is no refusal's.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.soak.traffic import Kind, Planned
from benchmarks.suite.load.calls import Answer

LINE = re.compile(r'v1: request (id=soak-[^"]*)')
PAIR = re.compile(r"(\w+)=(\S+)")
REFUSALS = frozenset({"queue_full", "invalid_arg", "draining", "restarting", "refused"})
ENGINE_FAULT = re.compile(r"the engine|engine process")


class Outcome(enum.Enum):
    """As the client saw it."""

    FINISHED = "finished"
    EXPIRED = "failed by their deadline without a token"
    CANCELLED = "cancelled"
    FAILED = "failed with their engine"
    REFUSED = "refused"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Line:
    """A request's line in the server's log."""

    reason: str
    code: str
    output_tokens: int

    @property
    def accepted(self) -> bool:
        """The engine had it."""
        return self.reason not in REFUSALS


@dataclass(slots=True)
class Ledger:
    """Of all rounds so far."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    kinds: Counter[Kind] = field(default_factory=Counter)
    accepted: int = 0
    """Lines of the log that are no refusals."""
    accepted_ends: Counter[Outcome] = field(default_factory=Counter)
    """What the clients of those saw."""
    problems: list[str] = field(default_factory=list)

    def enter(self, planned: Sequence[Planned], answers: Sequence[Answer], log: str, *, engine_faults: bool) -> None:
        """A round that is over. `log`: the server's lines of its time; `engine_faults`: INTERNAL is no wonder."""
        lines = read_lines(log)
        for one, answer in zip(planned, answers, strict=True):
            outcome, problem = judge(one, answer, engine_faults=engine_faults)
            told = lines.pop(one.request_id, [])
            problem = problem or _contradiction(one, answer, outcome, told)
            self.outcomes[outcome] += 1
            self.kinds[one.kind] += 1
            accepted = sum(line.accepted for line in told)
            self.accepted += accepted
            self.accepted_ends[outcome] += accepted
            if problem:
                self.problems.append(f"{one.request_id} ({one.kind.name.lower()}): {problem}")
        self.problems += [f"{request_id}: in the log, and nobody sent it" for request_id in lines]

    @property
    def balance(self) -> str:
        """finished + cancelled + failed = accepted, in numbers; failed as `flover_requests_ended_total` has it."""
        ends = self.accepted_ends
        finished, cancelled, expired = ends[Outcome.FINISHED], ends[Outcome.CANCELLED], ends[Outcome.EXPIRED]
        failed = ends[Outcome.FAILED] + expired
        other = self.accepted - finished - cancelled - failed
        words = f"{finished} finished + {cancelled} cancelled + {failed} failed"
        if expired:
            words += f" ({expired} by their deadline without a token)"
        return f"{words} = {self.accepted} accepted" + (f", BUT {other} ended otherwise" if other else "")


def judge(planned: Planned, answer: Answer, *, engine_faults: bool) -> tuple[Outcome, str]:
    """What became of it, and what is wrong with that (empty: nothing)."""
    code, text = answer.code, f"{answer.code}: {answer.message}"
    if answer.cancelled:
        return Outcome.CANCELLED, ""
    if not code:
        return _judge_finished(planned, answer)
    if planned.kind is Kind.BAD and code not in ("INTERNAL", "DEADLINE_EXCEEDED"):
        return Outcome.REFUSED, ""
    if code == "UNAVAILABLE" and answer.message.startswith("the queue is full: "):
        return Outcome.REFUSED, ""
    if code == "UNAVAILABLE" and planned.kind is Kind.DEADLINE and "deadline" in answer.message:
        return Outcome.EXPIRED, ""
    if engine_faults and ENGINE_FAULT.search(answer.message):
        if code == "UNAVAILABLE":
            return Outcome.REFUSED, ""
        if code == "INTERNAL":
            return Outcome.FAILED, ""
    return Outcome.LOST, text


def _judge_finished(planned: Planned, answer: Answer) -> tuple[Outcome, str]:
    tokens, most = answer.num_tokens, planned.most_tokens
    if planned.kind is Kind.BAD:
        return Outcome.FINISHED, f"a bad request was answered with {tokens} tokens"
    if planned.kind is Kind.DEADLINE and "deadline" in answer.finish:
        return Outcome.FINISHED, "" if 0 < tokens <= most else f"{tokens} of {most} tokens by its deadline"
    if planned.kind is Kind.STOP:
        is_whole = 0 < tokens <= most and answer.finish in ("stop", "length")
    else:
        is_whole = tokens == most and set(answer.finish.split(",")) == {"length"}
    return (Outcome.FINISHED, "") if is_whole else (Outcome.LOST, f"{tokens} of {most} tokens, {answer.finish!r}")


def _contradiction(planned: Planned, answer: Answer, outcome: Outcome, told: Sequence[Line]) -> str:
    """Between client and log."""
    if len(told) > 1:
        return f"{len(told)} lines in the log"
    line = told[0] if told else None
    match outcome:
        case Outcome.FINISHED if planned.kind is not Kind.BAD:
            if line is None or line.code != "OK" or line.output_tokens != answer.num_tokens:
                return f"the client has {answer.num_tokens} tokens, the log {line}"
        case Outcome.EXPIRED | Outcome.FAILED:
            wanted = "UNAVAILABLE" if outcome is Outcome.EXPIRED else "INTERNAL"
            if line is None or line.code != wanted:
                return f"the client has {wanted}, the log {line}"
        case Outcome.REFUSED if line is not None and line.accepted:
            return f"the client was refused, the log says {line}"
    return ""


def read_lines(log: str) -> dict[str, list[Line]]:
    """By request id."""
    found: dict[str, list[Line]] = {}
    for text in LINE.findall(log):
        fields = dict(PAIR.findall(text))
        line = Line(fields.get("reason", ""), fields.get("code", ""), int(fields.get("output_tokens", 0)))
        found.setdefault(fields["id"], []).append(line)
    return found


def summed(outcomes: Iterable[tuple[Outcome, int]]) -> str:
    """In words."""
    return ", ".join(f"{count} {outcome.value}" for outcome, count in outcomes if count)
