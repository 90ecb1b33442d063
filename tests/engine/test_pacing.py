"""The pacer beside a simulated device: late plans, and a device that is never left idle for long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from flover_backend.engine.pacing import MAX_LEAD_S, Pacer
from flover_backend.scheduler.plan import Chunk, Plan

LOOK_S = 0.5e-3


@dataclass
class SimulatedDevice:
    """Runs one iteration after another; the host needs `host_s` to plan and launch one."""

    host_s: float = 0.6e-3
    now: float = 100.0
    ends: list[float] = field(default_factory=list)
    idle_s: float = 0.0
    planned_before_end_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pacer = Pacer(lambda: self.now)

    def iterate(self, plan: Plan, seconds: float) -> None:
        """As the engine's process does: wait until the plan is due, or the device is done; plan, launch, read."""
        running = self.ends[-1] if self.ends else 0.0
        while self.pacer.due > self.now and running > self.now:
            self.now += min(LOOK_S, self.pacer.due - self.now)
        self.pacer.planning()
        self.planned_before_end_s.append(running - self.now)
        self.now += self.host_s
        if self.ends:
            self.idle_s += max(0.0, self.now - running)
        self.ends.append(max(self.now, running) + seconds)
        if len(self.ends) == 1:
            self.pacer.launched(plan, None)
            return
        waited = max(0.0, running - self.now)
        self.now += waited
        self.pacer.launched(plan, waited)


def decode(rows: int) -> Plan:
    return Plan(0, rows, decode_rows=list(range(rows)))


def run(device: SimulatedDevice, count: int, rows: int, seconds: Callable[[int], float]) -> None:
    for number in range(count):
        device.iterate(decode(rows), seconds(number))


def test_plans_come_late_and_the_device_stays_busy() -> None:
    device = SimulatedDevice()
    run(device, 200, 32, lambda number: 7e-3)
    assert max(device.planned_before_end_s[5:]) < 2.6e-3
    assert device.idle_s == 0.0


@pytest.mark.parametrize("host_ms", [0.2, 1.5, 4.0])
def test_the_lead_follows_the_host(host_ms: float) -> None:
    device = SimulatedDevice(host_s=host_ms * 1e-3)
    run(device, 300, 32, lambda number: 9e-3)
    late = device.planned_before_end_s[-1]
    assert host_ms * 1e-3 < late < host_ms * 1e-3 + 1.5e-3
    before = device.idle_s
    run(device, 300, 32, lambda number: 9e-3)
    assert device.idle_s == before


def test_growing_contexts_are_followed() -> None:
    device = SimulatedDevice()
    run(device, 500, 256, lambda number: 14e-3 + number * 30e-6)
    assert device.idle_s == 0.0
    assert device.planned_before_end_s[-1] < 4e-3


def test_an_iteration_that_is_shorter_than_expected_costs_one_look() -> None:
    device = SimulatedDevice()
    run(device, 100, 256, lambda number: 30e-3)
    run(device, 100, 256, lambda number: 14e-3)
    assert device.idle_s < 6 * (LOOK_S + device.host_s)


def test_unknown_sizes_expect_what_fewer_rows_take() -> None:
    device = SimulatedDevice()
    device.iterate(decode(4), 7e-3)
    assert device.pacer.due < device.now, "nothing is known yet"
    run(device, 5, 4, lambda number: 7e-3)
    device.iterate(decode(2), 7e-3)
    assert device.pacer.due < device.now, "fewer rows may take less"
    device.iterate(decode(64), 8e-3)
    assert device.pacer.due > device.now + 2e-3


def test_short_iterations_are_not_waited_for() -> None:
    device = SimulatedDevice()
    run(device, 100, 8, lambda number: 0.7e-3)
    assert device.pacer.due <= device.now


def mixed(rows: int, prompt: int) -> Plan:
    return Plan(0, rows, chunks=[Chunk(rows - 1, 0, [1] * prompt, samples=True)], decode_rows=list(range(rows - 1)))


def test_iterations_with_prompts_are_expected_by_their_size() -> None:
    device = SimulatedDevice()
    for _ in range(30):
        run(device, 4, 25, lambda number: 8e-3)
        device.iterate(mixed(25, 350), 17e-3)
        run(device, 4, 25, lambda number: 8e-3)
        device.iterate(mixed(25, 60), 10e-3)
    assert device.idle_s == 0.0
    device.iterate(mixed(25, 345), 17e-3)
    assert device.pacer.due > device.now + 13e-3
    device.iterate(mixed(25, 50), 10e-3)
    assert device.pacer.due < device.now + 10e-3, "a smaller prompt takes less"
    device.iterate(decode(25), 8e-3)
    assert device.pacer.due < device.now + 8e-3, "the others were the prompts'"


def test_unknown_prompts_expect_what_the_rows_take_alone() -> None:
    device = SimulatedDevice()
    run(device, 5, 2, lambda number: 7e-3)
    device.iterate(mixed(2, 400), 90e-3)
    assert device.now < device.pacer.due < device.now + 7e-3


def test_empty_plans_are_never_waited_for() -> None:
    device = SimulatedDevice()
    run(device, 5, 2, lambda number: 7e-3)
    device.iterate(Plan(0, 0), 0.0)
    assert device.pacer.due == 0.0


def test_the_lead_is_bounded() -> None:
    device = SimulatedDevice(host_s=50e-3)
    run(device, 50, 2, lambda number: 60e-3)
    assert device.pacer.lead <= MAX_LEAD_S
