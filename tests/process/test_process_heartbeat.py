"""What the heartbeat says and how fronts judge it: hangs, stops, and what only looks like them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from echo_core import POISON, FakeCore, Steering
from engine_host import is_running, is_stopped, wait_until

from flover_backend.bundled import path_of
from flover_backend.channel import Heartbeat
from flover_backend.engine.allowance import FLOOR_S, SLACK, Allowance
from flover_backend.engine.pulse import INTERVAL_S, Pulse
from flover_backend.front.engine_life import BUSY_SILENCE_S, LATE_LOOK_S, LOOK_S, SILENCE_S, EngineLife
from flover_backend.models.load import load_model
from flover_backend.request import Request, SamplingParams
from flover_backend.scheduler.plan import Chunk, Plan


def beats(pulse: Pulse, start: float, count: int) -> list[float]:
    """What `count` heartbeats say, one each interval."""
    said = [pulse.beat(start + number * INTERVAL_S) for number in range(count)]
    return [heartbeat.busy_s for heartbeat in said if heartbeat is not None]


@pytest.fixture
def core() -> FakeCore:
    """Its turns may take 3 s; a request has a row and no token."""
    core = FakeCore(Steering(allowed_s=3.0))
    core.add(Request(key=7, prompt_ids=POISON, params=SamplingParams(max_tokens=1), arrival_time=0.0))
    with pytest.raises(RuntimeError, match="a bug in a kernel"):
        core.step()
    return core


def test_requests_are_suspected_once_a_turn_is_too_long(core: FakeCore) -> None:
    pulse = Pulse(core)
    pulse.begin()
    said = [pulse.beat(100.0 + number * INTERVAL_S) for number in range(8)]
    assert [heartbeat.suspects for heartbeat in said if heartbeat] == [()] * 7 + [(7,)]


def test_the_time_of_a_turn_adds_up_while_it_lasts(core: FakeCore) -> None:
    pulse = Pulse(core)
    pulse.begin()
    assert beats(pulse, 100.0, 5) == [0.0, 0.5, 1.0, 1.5, 2.0]
    pulse.begin()
    assert beats(pulse, 102.5, 2) == [0.0, 0.5]


def test_a_thread_that_waits_for_requests_is_not_busy(core: FakeCore) -> None:
    pulse = Pulse(core)
    pulse.begin()
    pulse.rest()
    assert beats(pulse, 100.0, 4) == [0.0] * 4


def test_a_process_that_was_stopped_as_a_whole_does_not_blame_its_main_thread(core: FakeCore) -> None:
    pulse = Pulse(core)
    pulse.begin()
    beats(pulse, 100.0, 2)
    late = pulse.beat(1000.0)
    assert late is not None
    assert late.busy_s == 0.5 + 2 * INTERVAL_S


def test_heartbeats_come_at_their_interval_however_often_the_thread_wakes(core: FakeCore) -> None:
    pulse = Pulse(core)
    assert pulse.seconds_to_next(100.0) == 0.0
    assert pulse.beat(100.0) is not None
    assert pulse.beat(100.0 + INTERVAL_S / 2) is None
    assert pulse.seconds_to_next(100.0 + INTERVAL_S / 2) == pytest.approx(INTERVAL_S / 2)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    code = "import time; print(flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, "stem"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it has a command line, and computes no more
    yield process
    process.kill()
    process.communicate()


def judge(life: EngineLife, looks: int) -> list[str]:
    return [reason for reason in (life.nothing_came() for _ in range(looks)) if reason is not None]


def test_silence_is_judged_after_so_many_looks_and_forgotten_at_a_word(sleeper: subprocess.Popen[bytes]) -> None:
    life = EngineLife(sleeper.pid, "stem")
    os.kill(sleeper.pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(sleeper.pid), "the stop")
    looks = int(SILENCE_S / LOOK_S)
    assert judge(life, looks - 1) == []
    life.heard()
    assert judge(life, looks - 1) == []
    (reason,) = judge(life, 2)
    assert "it has said nothing for" in reason
    life.kill()
    assert not is_running(sleeper.pid)
    life.close()


def test_a_silent_engine_that_computes_gets_longer() -> None:
    """As one whose compiler holds the interpreter's lock: this process, which computes."""
    life = EngineLife(os.getpid(), "no such stem")
    for _ in range(int(SILENCE_S / LOOK_S) + 5):
        sum(range(5_000_000))  # several clock ticks
        assert life.nothing_came() is None
    for _ in range(int(BUSY_SILENCE_S / LOOK_S)):
        if life.nothing_came() is not None:
            return
    raise AssertionError("it never ends")


def test_a_process_with_another_command_line_is_never_killed(sleeper: subprocess.Popen[bytes]) -> None:
    life = EngineLife(sleeper.pid, "another stem")
    life.kill()
    assert is_running(sleeper.pid)


def test_a_bad_heartbeat_counts_only_when_no_better_one_has_come(sleeper: subprocess.Popen[bytes]) -> None:
    life = EngineLife(sleeper.pid, "stem")
    assert life.look_s == LOOK_S
    life.beat(Heartbeat(4.0, 3.0))
    assert life.look_s == LATE_LOOK_S, "it looks for what has come since, and judges then"
    life.beat(Heartbeat(0.0, 3.0))
    assert life.nothing_came() is None
    life.beat(Heartbeat(4.0, 3.0))
    assert life.nothing_came() == "an iteration runs for 4.0 s; allowed are 3.0 s"
    life.close()


def plan(num_tokens: int) -> Plan:
    return Plan(0, 1, chunks=[Chunk(0, 0, [1] * num_tokens, samples=True)])


def test_an_iteration_may_take_a_multiple_of_what_its_tokens_cost() -> None:
    allowance = Allowance(load_model(path_of("llama-demo"), "auto", "cpu", lambda stage, done: None))
    allowance.planned(plan(1))
    assert FLOOR_S < allowance.seconds < FLOOR_S + 1
    few = allowance.seconds
    allowance.ended(0.01)
    assert allowance.seconds == FLOOR_S
    allowance.planned(plan(4096))
    many = allowance.seconds
    assert many > few
    allowance.ended(SLACK * (many - FLOOR_S))  # far slower than expected: so may the next be
    allowance.planned(plan(4096))
    assert allowance.seconds > FLOOR_S + SLACK * (many - FLOOR_S)
    for _ in range(200):
        allowance.ended(0.01)
        allowance.planned(plan(4096))
    assert allowance.seconds < 2 * many


def test_an_empty_plan_allows_the_floor() -> None:
    allowance = Allowance(load_model(path_of("llama-demo"), "auto", "cpu", lambda stage, done: None))
    allowance.planned(Plan(0, 0))
    assert allowance.seconds == FLOOR_S
