"""FloverEngine in a PyTriton program: its configuration, its life and its end, and the environment it needs."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from live_server import descendants_of, wait_for
from pytriton_host import Host, contents
from triton_client import Call, arrays_of, ids_of

from flover_backend.bundled import path_of
from flover_backend.errors import ConfigError, EngineFailed
from flover_backend.libpython import find_libpython
from flover_backend.pytriton import FloverEngine, environment

PROMPT = "In the beginning"
LONG = {"max_tokens": 2000, "ignore_eos": True, "temperature": 0}


# configuration


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"max_row": 4}, "FloverEngine: .*`max_row`.*Known keys: model, "),
        ({"max_rows": 0}, "FloverEngine: .*max_rows"),
        ({"max_rows": object()}, "FloverEngine: .*max_rows"),
        ({"sender_threads": 4}, "sender_threads: has no effect in a PyTriton program"),
        ({"kv_cache_bytes": 1, "kv_cache_tokens": 1}, "kv_cache_bytes and kv_cache_tokens are set together"),
    ],
)
def test_a_wrong_key_is_refused_by_name(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        FloverEngine("flover", **keys)


def test_the_life_of_an_engine_is_checked(host: Host) -> None:
    with pytest.raises(ConfigError, match=r"model: .* is no directory"):
        FloverEngine("flover", model="no-such-model").start()
    engine = FloverEngine("unbound")
    with pytest.raises(ConfigError, match="engine unbound is not started"):
        engine.bind(host.triton)
    with pytest.raises(EngineFailed, match="engine unbound does not run"):
        engine.metrics()
    with pytest.raises(ConfigError, match="engine flover is bound already"):
        host.engine.bind(host.triton)
    with pytest.raises(ConfigError, match="engine flover was started before"):
        host.engine.start()


# the end


@pytest.mark.slow
def test_a_drain_and_an_engine_that_ends_before_its_triton(host: Host) -> None:
    with FloverEngine("brief", max_rows=2, kv_cache_tokens=4096) as engine:
        engine.bind(host.triton)  # Triton runs already
        running = Call(host.grpc_url, arrays_of(PROMPT, {"max_tokens": 400, "ignore_eos": True}, stream=True), "brief")
        first = running.next()
        with ThreadPoolExecutor(1) as pool:
            drained = pool.submit(engine.drain)
            late = Call(host.grpc_url, arrays_of(PROMPT, {"max_tokens": 400}, stream=True), "brief").rest()[-1].error
            if late:  # else it was there before the drain
                assert late.startswith("RequestError: the server is draining") and late.endswith(" [UNAVAILABLE]\n")
            assert len(ids_of(contents([first, *running.rest()]))) == 400
            drained.result(timeout=60)
        (refusal,) = Call(host.grpc_url, arrays_of(PROMPT), "brief").rest()
        assert refusal.error.endswith(" [UNAVAILABLE]\n")
    (refusal,) = Call(host.grpc_url, arrays_of(PROMPT), "brief").rest()
    assert refusal.error.endswith(" [UNAVAILABLE]\n")
    with pytest.raises(EngineFailed, match="engine brief does not run"):
        engine.metrics()


@pytest.mark.slow
def test_a_close_ends_what_runs(host: Host) -> None:
    engine = FloverEngine("cut", max_rows=2, kv_cache_tokens=4096).start()
    engine.bind(host.triton)
    running = Call(host.grpc_url, arrays_of(PROMPT, LONG, stream=True), "cut")
    running.next()
    engine.close()
    assert running.rest()[-1].error == "RequestError: the model is being unloaded [UNAVAILABLE]\n"
    engine.close()


@pytest.mark.slow
def test_an_engine_whose_tokenizer_cannot_be_read_is_not_left_behind(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(path_of("llama-demo"), model)
    (model / "tokenizer.json").write_text("{")
    before = descendants_of(os.getpid())
    with pytest.raises(ConfigError, match=r"tokenizer\.json: not a readable tokenizer"):
        FloverEngine("flover", model=model).start()
    wait_for(lambda: descendants_of(os.getpid()) == before, 60)


# the environment


def test_triton_must_have_been_started_with_the_same_environment(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    environment.check()
    monkeypatch.setenv(environment.NO_STORE, "")
    with pytest.raises(ConfigError, match=r"import flover_backend\.pytriton before Triton starts"):
        environment.check()


def test_variables_that_are_set_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.NO_STORE, "")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/first:/second")
    environment.prepare()
    environment.prepare()
    assert os.environ[environment.NO_STORE] == ""
    folder = str(find_libpython().parent)
    assert os.environ["LD_LIBRARY_PATH"] == f"{folder}:/first:/second"
