"""Who may unload a model whose engine is gone: fronts of several loads and versions, with engines of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from engine_host import Host, wait_until
from recording_front import Recorder

from flover_backend.config import ModelJson
from flover_backend.front.client import EngineClient
from flover_backend.front.generation import Generation, Standing

Load = Callable[..., tuple[EngineClient, Generation]]


@pytest.fixture
def load(host: Host) -> Load:
    def attach(version: str = "1", model: str = "flover", **config: object) -> tuple[EngineClient, Generation]:
        client = EngineClient.connect(
            ModelJson(**config),  # type: ignore[arg-type]
            host.model_dir,
            model,
            version,
            host.server.pid,
            "front",
            log=host.log.append,
            factory="echo_core:load",
        )
        host.clients.append(client)
        generation = Generation(client, model, version, host.server.pid)
        generation.loaded()
        client.start(Recorder())
        return client, generation

    return attach


def kill(host: Host, *clients: EngineClient) -> None:
    pid = clients[0].info.pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in host.engine_pids(), "the engine's end")


def test_one_of_the_fronts_of_a_load_is_told_that_it_is_the_last(host: Host, load: Load) -> None:
    (first, one), (second, two) = load(), load()
    assert first.info.pid == second.info.pid
    kill(host, first)
    assert [one.take(), two.take()] == [Standing.LAST, Standing.OVER]
    assert host.files() == []


def test_the_next_front_may_try_when_the_first_could_not(host: Host, load: Load) -> None:
    (first, one), (_, two) = load(), load()
    kill(host, first)
    assert one.take() is Standing.LAST
    one.give_back()
    assert two.take() is Standing.LAST


def test_a_load_is_replaced_once_a_later_one_with_another_engine_serves(host: Host, load: Load) -> None:
    (_, old), (_, same) = load(max_rows=2), load(max_rows=2)
    new, later = load(max_rows=3)
    other, _ = load(version="2", max_rows=4)
    same.serves()
    assert not any(one.is_replaced() for one in (old, same, later)), "no request has come to the later one"
    later.serves()
    assert [old.is_replaced(), same.is_replaced(), later.is_replaced()] == [True, True, False]
    new.close()
    wait_until(lambda: new.info.pid not in host.engine_pids(), "the later engine's end")
    assert not old.is_replaced(), "it has gone again"
    assert other.info.pid in host.engine_pids()


@pytest.mark.parametrize("rows", [2, 3], ids=["the same configuration", "another configuration"])
def test_a_front_that_comes_late_leaves_a_later_load_alone(host: Host, load: Load, rows: int) -> None:
    (first, one), (_, late) = load(max_rows=2), load(max_rows=2)
    kill(host, first)
    assert one.take() is Standing.LAST
    new, newer = load(max_rows=rows)
    assert late.take() is Standing.OVER
    kill(host, new)
    assert newer.take() is Standing.LAST


def test_an_earlier_load_that_still_finishes_its_requests_counts_for_nothing(host: Host, load: Load) -> None:
    (old, older), (new, newer) = load(max_rows=2), load(max_rows=3)
    kill(host, new)
    assert newer.take() is Standing.LAST
    assert older.take() is Standing.LAST, "the later load was given up"
    kill(host, old)


def test_an_earlier_load_s_engine_that_dies_leaves_the_later_load_alone(host: Host, load: Load) -> None:
    (old, older), (new, newer) = load(max_rows=2), load(max_rows=3)
    kill(host, old)
    assert older.take() is Standing.OVER
    kill(host, new)
    assert newer.take() is Standing.LAST


def test_the_last_version_that_serves_is_the_one_to_unload(host: Host, load: Load) -> None:
    (first, one), (second, two), (_, other) = load("1"), load("2"), load("1", "another")
    kill(host, first)
    assert one.take() is Standing.AMONG_OTHERS
    kill(host, second)
    assert two.take() is Standing.LAST
    assert one.take() is Standing.LAST
    assert other.take() is Standing.LAST


def test_nothing_is_unloaded_while_another_load_is_under_way(host: Host, load: Load) -> None:
    first, one = load(max_rows=2)
    marked, loading = load(max_rows=3)
    marked.files.loaded_path.unlink()  # as before its end
    kill(host, first)
    assert one.take() is Standing.AMONG_OTHERS
    loading.give_back()
    assert one.take() is Standing.OVER
