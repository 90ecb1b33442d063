"""An engine that dies, hangs or crashes is started again: by one of its fronts, so often as is allowed, for all."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from echo_core import POISON, token
from engine_host import Host, is_running, wait_until
from supervised_front import SupervisedFront

from flover_backend.errors import EngineFailed


def expected(prompt_ids: list[int], count: int = 8) -> list[int]:
    return [token(prompt_ids, 0, position) for position in range(count)]


def kill_engine(front: SupervisedFront, number: signal.Signals = signal.SIGKILL) -> int:
    pid = front.engine.info.pid
    os.kill(pid, number)
    return pid


def test_what_had_no_token_runs_on_the_next_engine_in_its_order(host: Host) -> None:
    host.steer(max_rows=1, step_s=0.01)
    front = SupervisedFront(host)
    running = front.ask([1], max_tokens=1000)
    waiting = [front.ask([10 + number]) for number in range(5)]
    front.wait(lambda: (running.key, 0) in front.tokens, "the first token")
    dead = kill_engine(front)
    front.wait_finished(*(each.key for each in waiting))
    assert [key for key, _ in front.finish] == [each.key for each in waiting]
    for each in waiting:
        assert front.tokens[each.key, 0] == expected(each.prompt_ids)
    assert front.engine.info.pid != dead
    assert not is_running(dead)
    assert (running.key, 0) not in front.finish
    assert front.restarts == ["restart 1 of 3 within 600 s"]
    assert not front.failed


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_an_idle_engine_s_end_is_noticed_too(host: Host, number: signal.Signals) -> None:
    front = SupervisedFront(host)
    dead = kill_engine(front, number)
    front.wait_restarted(1)
    assert not is_running(dead)
    each = front.ask([7])
    front.wait_finished(each.key)
    assert front.tokens[each.key, 0] == expected([7])


def test_a_main_thread_that_hangs_is_noticed_although_the_io_thread_lives(host: Host) -> None:
    host.steer(step_s=3600.0, allowed_s=0.5)
    front = SupervisedFront(host)
    host.steer()
    each = front.ask([3])
    front.wait_finished(each.key)
    assert front.tokens[each.key, 0] == expected([3])
    (lost,) = front.lost
    assert "hung and was killed: an iteration runs for" in lost
    assert "allowed are 0.5 s" in lost


@pytest.mark.slow
def test_an_iteration_that_may_take_long_is_no_hang(host: Host) -> None:
    host.steer(step_s=1.5, allowed_s=30.0)
    front = SupervisedFront(host)
    each = front.ask([3], max_tokens=2)
    front.wait_finished(each.key)
    assert not front.lost


def test_an_exception_in_an_iteration_uses_restarts_up_until_all_fails(host: Host) -> None:
    host.steer(crash_at_step=0)
    front = SupervisedFront(host, engine_restarts=2)
    front.ask([3])
    front.wait(lambda: front.failed, "the failure")
    (text,) = front.failed
    assert "RuntimeError: the fake core crashes" in text
    assert "it was started again 2 times within 600 s (engine_restarts)" in text
    assert len(front.lost) == 2
    assert front.restarts == ["restart 1 of 2 within 600 s", "restart 2 of 2 within 600 s"]
    assert front.num_counted == 2
    with pytest.raises(EngineFailed, match="the fake core crashes"):
        front.ask([4])
    front.engine.close()
    assert host.files() == []


@pytest.mark.parametrize("hangs", [False, True])
def test_an_engine_says_which_requests_it_failed_at(host: Host, hangs: bool) -> None:
    """Of two fronts: those that it computed, without a token; not the one that has one, nor one that has no row."""
    host.steer(max_rows=3, step_s=0.01, allowed_s=0.3, poison_hangs=hangs)
    first, second = (SupervisedFront(host, name) for name in ("one", "two"))
    running = first.ask([1], max_tokens=1000)
    first.wait(lambda: (running.key, 0) in first.tokens, "the first token")
    host.steer()
    bad = second.ask(POISON)
    second.wait(lambda: second.suspects, "the engine's end")
    first.wait(lambda: first.suspects, "the engine's end")
    assert (first.suspects[0], second.suspects[0]) == (set(), {bad.key})


def test_without_restarts_the_first_death_is_the_last(host: Host) -> None:
    front = SupervisedFront(host, engine_restarts=0)
    kill_engine(front)
    front.wait(lambda: front.failed, "the failure")
    assert front.failed[0].endswith("engine_restarts is 0")
    assert not front.lost


def test_engines_that_never_load_again_are_counted(host: Host) -> None:
    front = SupervisedFront(host, engine_restarts=2)
    (host.model_dir / "steering" / "fake.json").write_text("no JSON")
    kill_engine(front)
    front.wait(lambda: front.failed, "the failure")
    assert front.num_counted == 2
    assert front.num_restarted == 0


def test_fronts_share_an_engine_its_count_of_restarts_and_nothing_else(host: Host) -> None:
    """Both fronts number their requests from 1: behind the numbers that the new engine gave them they differ."""
    host.steer(max_rows=1, step_s=0.01)
    fronts = [SupervisedFront(host, name, engine_restarts=2) for name in ("one", "two")]
    for _ in range(2):
        blocker = fronts[0].ask([1], max_tokens=1000)
        fronts[0].wait(lambda key=blocker.key: (key, 0) in fronts[0].tokens, "the first token")
        asked = [[front.ask([100 * at + number]) for number in range(3)] for at, front in enumerate(fronts)]
        kill_engine(fronts[0])
        for front, requests in zip(fronts, asked, strict=True):
            front.wait_finished(*(each.key for each in requests))
            assert [front.tokens[each.key, 0] for each in requests] == [expected(r.prompt_ids) for r in requests]
        assert fronts[0].engine.info.pid == fronts[1].engine.info.pid
    assert sum(front.num_counted for front in fronts) == 2
    kill_engine(fronts[0])
    for front in fronts:
        front.wait(lambda front=front: front.failed, "the failure")
        assert "it was started again 2 times" in front.failed[0]


def test_a_death_while_the_next_engine_loads_counts_too(host: Host) -> None:
    host.steer(max_rows=1, step_s=0.01)
    front = SupervisedFront(host, engine_restarts=3)
    blocker = front.ask([1], max_tokens=1000)
    front.wait(lambda: (blocker.key, 0) in front.tokens, "the first token")
    each = front.ask([9])
    host.steer(load_s=3600.0)
    first = kill_engine(front)
    wait_until(lambda: [pid for pid in host.engine_pids() if pid != first], "the next engine")
    (second,) = [pid for pid in host.engine_pids() if pid != first]
    host.steer()
    os.kill(second, signal.SIGKILL)
    front.wait_finished(each.key)
    assert front.tokens[each.key, 0] == expected([9])
    assert front.restarts == ["restart 1 of 3 within 600 s", "restart 2 of 3 within 600 s"]
    assert front.num_restarted == 1
    assert front.num_counted == 2


def test_a_full_queue_takes_what_was_accepted_before(host: Host) -> None:
    host.steer(max_rows=2, max_queued_requests=2, step_s=0.01)
    front = SupervisedFront(host)
    front.sends_tokens = False  # it holds them back until the end, as one whose client does not stream
    requests = [front.ask([number], max_tokens=300) for number in range(2)]
    front.wait(lambda: len(front.tokens) == 2, "both running")
    requests += [front.ask([number]) for number in (2, 3)]
    time.sleep(0.1)
    kill_engine(front)
    front.wait_finished(*(each.key for each in requests))
    assert not front.ended
    assert [len(front.tokens[each.key, 0]) for each in requests] == [300, 300, 8, 8]


def test_a_front_that_ends_while_an_engine_loads_again_leaves_nothing(host: Host) -> None:
    front = SupervisedFront(host)
    host.steer(load_s=3600.0)
    first = kill_engine(front)
    wait_until(lambda: [pid for pid in host.engine_pids() if pid != first], "the next engine")
    (second,) = [pid for pid in host.engine_pids() if pid != first]
    front.engine.close()
    wait_until(lambda: not is_running(second), "the engine's end")
    wait_until(lambda: host.files() == [], "no files left")
    assert not front.failed


@pytest.mark.slow
def test_a_front_that_ends_after_its_engine_failed_leaves_no_file_of_the_count(host: Host) -> None:
    front = SupervisedFront(host, engine_restarts=1)
    kill_engine(front)
    front.wait_restarted(1)
    assert any(name.endswith(".again") for name in host.files())
    front.engine.close()
    assert host.files() == []


def test_an_engine_that_dies_while_it_drains_is_not_started_again(host: Host) -> None:
    host.steer(step_s=0.01)
    front = SupervisedFront(host)
    each = front.ask([1], max_tokens=1000)
    front.wait(lambda: (each.key, 0) in front.tokens, "the first token")
    with host.observe() as observer:
        killer = threading.Thread(target=lambda: (front.wait(lambda: front.drains, "the drain"), kill_engine(front)))
        killer.start()
        with pytest.raises(EngineFailed):
            observer.drain(60.0)
        killer.join()
    front.wait(lambda: front.failed, "the failure")
    assert front.failed[0].endswith("while it was draining")
    assert not front.restarts


@pytest.mark.slow
def test_what_a_killed_server_s_dead_engine_has_left_goes_with_the_next_one(host: Host) -> None:
    front = SupervisedFront(host, engine_restarts=1)
    kill_engine(front)
    front.wait_restarted(1)
    (count,) = [path for path in host.runtime_dir.iterdir() if path.suffix == ".again"]
    left = count.read_bytes()
    front.engine.close()
    count.write_bytes(left)
    assert host.files() == [count.name]
    host.kill_server()
    host.restart_server()
    front = SupervisedFront(host)
    assert count.name not in host.files()


@pytest.mark.slow
def test_a_load_by_the_operator_forgets_what_was_counted(host: Host) -> None:
    front = SupervisedFront(host, engine_restarts=1)
    for times in (1, 2):
        kill_engine(front)
        if times == 1:
            front.wait_restarted(1)
    front.wait(lambda: front.failed, "the failure")
    again = SupervisedFront(host, "again", engine_restarts=1)
    kill_engine(again)
    again.wait_restarted(1)
    assert not again.failed


def test_a_server_that_is_killed_while_an_engine_loads_again_takes_it_along(host: Host) -> None:
    front = SupervisedFront(host)
    host.steer(load_s=3600.0)
    first = kill_engine(front)
    wait_until(lambda: [pid for pid in host.engine_pids() if pid != first], "the next engine")
    (second,) = [pid for pid in host.engine_pids() if pid != first]
    host.kill_server()
    wait_until(lambda: not is_running(second), "the engine's end")
    wait_until(lambda: host.files() == [], "no files left")


def test_another_model_in_the_place_of_the_one_that_was_loaded_is_not_started(host: Host) -> None:
    front = SupervisedFront(host)
    (host.model_dir / "config.json").write_text("{}")
    kill_engine(front)
    front.wait(lambda: front.failed, "the end of it")
    assert "have changed since it was loaded: load it again" in front.failed[0]


def test_what_stands_in_a_restart_s_way_ends_the_requests_after_some_tries(host: Host) -> None:
    """No attempt gets as far as to be counted with the other fronts': the runtime directory is not private any more."""
    front = SupervisedFront(host, engine_restarts=2)
    host.runtime_dir.chmod(0o750)
    kill_engine(front)
    front.wait(lambda: front.failed, "the end of it")
    assert "started again 2 times" in front.failed[0]
    host.runtime_dir.chmod(0o700)
