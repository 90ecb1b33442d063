"""Driving an engine: arrivals when they are due, every token counted once, an idle engine whatever happens."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_shape import TINY

from flover_backend.bench_engine.drive import Arrival, Record, drive, prompts, together
from flover_backend.bench_engine.figures import BenchError
from flover_backend.config import ModelJson
from flover_backend.engine.engine import Engine
from flover_backend.engine.interface import RequestEnded
from flover_backend.engine.load import load_engine
from flover_backend.request import FinishReason
from flover_backend.scheduler.plan import Plan


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return made(tmp_path_factory.mktemp("tiny"))


def made(folder: Path) -> Engine:
    config = ModelJson(device="cpu", load_format="random")
    return load_engine(config, TINY.write(folder), lambda stage, fraction: None)[0]


def test_every_token_of_every_request_is_timed(engine: Engine) -> None:
    arrivals = [*together(prompts(3, 5, 101), [4, 7, 1]), Arrival(0.01, [9, 9, 9], 6)]
    record = drive(engine, arrivals)
    assert [len(record.times(request)) for request in range(4)] == [4, 7, 1, 6]
    assert record.times(3)[0] > record.added[3] >= 0.01 > max(record.added[:3])
    assert record.times(1) == sorted(record.times(1))
    assert record.all_started_of(3) <= record.all_started() <= record.end
    assert not engine.has_work
    engine.check_integrity()


def test_a_request_can_wait_for_steps(engine: Engine) -> None:
    record = drive(engine, [*together(prompts(2, 5, 101), 12), Arrival(0.0, [5, 6], 2, after_steps=4)])
    assert record.steps[3][0] <= record.added[2] < record.steps[4][0]
    assert len(record.times(2)) == 2 and sorted(record.steps[4][1]) == [0, 1, 2]
    with pytest.raises(BenchError, match="all ended after 3 of 9 iterations"):
        drive(engine, [*together(prompts(2, 5, 101), 3), Arrival(0.0, [5, 6], 2, after_steps=9)])


def test_gaps_are_between_steps() -> None:
    record = Record(steps=[(1.0, [0]), (1.5, [0, 1]), (2.5, [1]), (4.5, [0])], added=[0.0, 1.2])
    assert record.gaps(0.0) == [0.5, 1.0, 2.0]
    assert record.gaps(1.5) == [1.0, 2.0] and record.gaps(1.5, 3.0) == [1.0]
    assert record.all_started() == 1.5 and record.end == 4.5 and record.times(1) == [1.5, 2.5]
    with pytest.raises(BenchError, match="1 requests never got a token"):
        record.all_started_of(3)


def test_a_run_that_takes_too_long_is_given_up_and_the_engine_is_idle(engine: Engine) -> None:
    with pytest.raises(BenchError, match="given up after 0 s"):
        drive(engine, together(prompts(2, 5, 101), 200), limit_s=0.02)
    assert not engine.has_work
    engine.check_integrity()


def test_an_interrupted_step_is_what_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result is lost, so that the engine's next step may fail, too: that must not stand in its place."""
    engine = made(tmp_path)
    run = engine.runner.run

    def interrupted(plan: Plan) -> None:
        monkeypatch.setattr(engine.runner, "run", run)
        run(plan)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.runner, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        drive(engine, together(prompts(2, 4, 64), 5))


def test_a_request_that_ends_early_is_an_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Engine.step

    def step(self: Engine) -> list[object]:
        updates = real(self)
        return [RequestEnded(u.key, FinishReason.CANCELLED, "no more blocks") for u in updates]

    monkeypatch.setattr(Engine, "step", step)
    with pytest.raises(BenchError, match="no more blocks"):
        drive(engine, together(prompts(1, 5, 101), 3))
    assert not engine.has_work
