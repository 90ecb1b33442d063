"""What a front does when there is no engine any more: in the explicit control mode, and in the others."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from flover_backend.front import out_of_service
from flover_backend.front.generation import Standing
from flover_backend.front.logs import Log
from flover_backend.front.out_of_service import EXIT_CODE, OutOfService, is_explicit


class Triton:
    def __init__(self, error: Exception | None = None) -> None:
        self.unloaded: list[str] = []
        self.error = error

    def unload_model(self, name: str) -> None:
        self.unloaded.append(name)
        if self.error is not None:
            raise self.error


class Generation:
    """Says what it is told to, one word a look; the last for ever."""

    def __init__(self, *standings: Standing) -> None:
        self.said: list[str] = []
        self._standings = list(standings) or [Standing.LAST]

    def loaded(self) -> None:
        self.said.append("loaded")

    def give_back(self) -> None:
        self.said.append("given back")

    def take(self) -> Standing:
        self.said.append("asked")
        return self._standings.pop(0) if len(self._standings) > 1 else self._standings[0]


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[int]:
    """A process with the command line of a tritonserver."""
    code, pipe = "import sys; print(flush=True); sys.stdin.read()", subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code, *request.param], stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    process.stdout.readline()  # it has a command line now
    yield process.pid
    process.communicate()


EXPLICIT = ("--model-control-mode=explicit",)


def call(triton: Any, server: int, generation: Any = None) -> list[object]:
    """What happened besides an unload, in order."""
    done: list[object] = []
    generation = generation or Generation()
    OutOfService(triton, "flover", server, Log("front"), lambda: done.append("closed"), generation, done.append)()
    return done


@pytest.mark.parametrize("server", [EXPLICIT, ("--model-control-mode", "explicit")], indirect=True)
def test_the_model_is_unloaded_where_instances_may(server: int) -> None:
    triton = Triton()
    assert call(triton, server) == []
    assert triton.unloaded == ["flover"]


@pytest.mark.parametrize("server", [(), ("--model-control-mode=poll",), ("--log-info=1",)], indirect=True)
def test_elsewhere_the_front_ends_and_does_not_even_ask(server: int) -> None:
    triton = Triton()
    assert call(triton, server) == ["closed", EXIT_CODE]
    assert triton.unloaded == []


@pytest.mark.parametrize("server", [EXPLICIT], indirect=True)
def test_an_instance_that_is_late_stays_to_be_finalized(server: int) -> None:
    generation = Generation()
    assert call(Triton(RuntimeError("it is unloaded already")), server, generation) == []
    assert generation.said == ["loaded", "asked", "given back"]


@pytest.mark.parametrize("server", [EXPLICIT], indirect=True)
def test_what_was_unloaded_by_another_or_loaded_anew_is_left_alone(server: int) -> None:
    triton = Triton()
    assert call(triton, server, Generation(Standing.OVER)) == []
    assert triton.unloaded == []


@pytest.mark.parametrize("server", [EXPLICIT], indirect=True)
def test_a_model_that_others_serve_is_unloaded_when_they_do_no_more(
    server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out_of_service, "LOOK_S", 0.01)
    triton, others = Triton(), [Standing.AMONG_OTHERS] * 3
    generation = Generation(*others, Standing.LAST)
    assert call(triton, server, generation) == []
    for thread in threading.enumerate():
        if thread.name == "out-of-service":
            thread.join(30.0)
    assert triton.unloaded == ["flover"]
    assert generation.said == ["loaded", *["asked"] * 4]


@pytest.mark.parametrize("server", [EXPLICIT], indirect=True)
def test_a_server_that_knows_no_unload_loses_the_front(server: int) -> None:
    assert call(object(), server) == ["closed", EXIT_CODE]


def test_the_last_control_mode_on_the_command_line_counts() -> None:
    assert not is_explicit(["tritonserver", *EXPLICIT, "--model-control-mode=none"])
    assert is_explicit(["tritonserver", "--model-control-mode=none", *EXPLICIT])
    assert not is_explicit([str(os.getpid())])
