"""Iterations that raise or hang under a real server, by themselves or at one request."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from live_engine import wait_for_engine
from live_metrics import series, wait_running
from live_server import StartServer, wait_for
from triton_client import Call, arrays_of, ask, ids_of

ENDLESS = {"max_tokens": 2000, "ignore_eos": True, "temperature": 0}
SHORT = {"max_tokens": 12, "ignore_eos": True, "temperature": 0}
PROMPT = [5, 6, 7]


@pytest.mark.slow
def test_an_iteration_that_raises_or_hangs_under_a_real_server(start_server: StartServer, tmp_path: Path) -> None:
    """The engine's interpreter is told to patch the engine: its iterations raise, or hang, while a file says so."""
    wrapper, order = patched_python(tmp_path)
    server = start_server({"max_rows": 2, "engine_python": str(wrapper), "engine_restarts": 5}, instances=2)
    server.wait_ready()
    lone = ids_of(ask(server.grpc_url, PROMPT, SHORT))
    for fault, said in (("raise", "the engine failed: RuntimeError: as ordered"), ("hang", "an iteration runs for")):
        running = [Call(server.grpc_url, arrays_of([9, 9], ENDLESS, stream=True)) for _ in range(2)]
        for call in running:
            call.next()
        waiting = [Call(server.grpc_url, arrays_of(PROMPT, SHORT, stream=True)) for _ in range(3)]
        wait_running(server, 2, waiting=3)
        (tmp_path / "written").write_text(fault)
        (tmp_path / "written").rename(order)
        ends = [call.rest()[-1].error for call in running]
        assert all(error.endswith("[INTERNAL]") for error in ends)
        assert any(said in error for error in ends), "another front may only see that it is gone"
        assert [ids_of(call.rest()) for call in waiting] == [lone] * 3
        wait_for_engine(server)
    server.stop()


@pytest.mark.slow
def test_a_request_that_crashes_the_engine_does_not_take_the_model_along(
    start_server: StartServer, tmp_path: Path
) -> None:
    wrapper, order = patched_python(tmp_path)
    order.write_text("poison")
    server = start_server({"max_rows": 2, "engine_python": str(wrapper)}, instances=2)
    server.wait_ready()
    lone = ids_of(ask(server.grpc_url, PROMPT, SHORT))
    running = [Call(server.grpc_url, arrays_of([9, 9], ENDLESS, stream=True)) for _ in range(2)]
    for call in running:
        call.next()
    bad = Call(server.grpc_url, arrays_of([13, 13], SHORT, stream=True))
    good = [Call(server.grpc_url, arrays_of(PROMPT, SHORT)) for _ in range(4)]
    wait_running(server, 2, waiting=5)
    running[0].cancel()
    assert running[1].rest()[-1].error.endswith("[INTERNAL]")
    (end,) = bad.rest()
    assert end.error.endswith("[INTERNAL]")
    assert "the engine has failed again at this request: the engine failed: RuntimeError: poison" in end.error
    assert [ids_of(call.rest()) for call in good] == [lone] * 4
    wait_for_engine(server)
    wait_for(lambda: server.metrics()[series("flover_engine_restarts_total")] == 2)
    server.stop()


def patched_python(folder: Path) -> tuple[Path, Path]:
    """An interpreter for the engine, and the file that orders a fault; an order is carried out once."""
    order, patch, wrapper = folder / "order", folder / "patch.py", folder / "python"
    patch.write_text(PATCH.format(order=str(order)))
    wrapper.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {patch} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper, order


PATCH = """
import os, time
from flover_backend.engine import process
from flover_backend.scheduler.scheduler import Scheduler
from flover_backend.engine.engine import Engine

step, plan = Engine.step, Scheduler.plan

def poisoned(self):
    planned = plan(self)
    if any(group.is_active and group.prompt_ids == [13, 13] for group in self._groups.values()):
        raise RuntimeError("poison")
    return planned

def faulty(self):
    if os.path.exists({order!r}):
        with open({order!r}) as file:
            fault = file.read()
        if fault == "poison":
            Scheduler.plan = poisoned
            return step(self)
        os.unlink({order!r})
        if fault == "hang":
            time.sleep(3600)
        raise RuntimeError("as ordered")
    return step(self)

Engine.step = faulty
process.main()
"""
