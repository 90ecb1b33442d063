"""The engines' interpreters, each asked once for all models that name it, by running model_probe.py with it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec

from flover_backend.doctor.questions import Answer, ModelQuestion
from flover_backend.doctor.repository import FoundModel, ModelVersion
from flover_backend.doctor.server import Server, program
from flover_backend.host.checks import Check
from flover_backend.host.pythons import PythonFacts, ask

PROBE_TIMEOUT_S = 300.0
ADVICE = "install this package with its extra [engine] there, or set engine_python: docs/deploy.md"


class Engines:
    """What was asked, and the answers."""

    def __init__(self, server: Server, versions: list[ModelVersion]) -> None:
        self._server = server
        pythons = list(dict.fromkeys(version.config.engine_python for version in versions)) or [None]
        self._first = engine_python_of(server, pythons[0])
        self.checks: list[Check] = []
        """Of torch and its GPU, in each interpreter."""
        self._of_models: dict[str, list[Check]] = {}
        for python in pythons:
            answer = _probe(server, python, [one for one in versions if one.config.engine_python == python])
            self.checks += answer.engine
            self._of_models |= {one.name: one.checks for one in answer.models}

    def checks_of(self, model: FoundModel) -> list[Check]:
        """Files and memory of a model."""
        return [check for version in model.versions for check in self._of_models.get(version.name, [])]

    def facts(self) -> PythonFacts:
        """Of the first model's engine: which CUDA its torch is built for."""
        packages = self._server.packages if self._first == self._server.python else None
        return ask(self._first, "", packages)


def engine_python_of(server: Server, engine_python: str | None) -> Path:
    """The interpreter of an engine whose model.json says `engine_python`."""
    return program(engine_python) if engine_python else server.python


def _environment(server: Server, engine_python: str | None) -> dict[str, str]:
    """One that finds this package, as fronts give it to an engine."""
    root = Path(__file__).resolve().parents[2]
    # NOTE: an installed package's folder holds everything else that is installed there, for another interpreter.
    own = [root] if root.name not in ("site-packages", "dist-packages") else []
    entries = [server.packages] if server.packages is not None and not engine_python else own
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(map(str, entries))}


def _probe(server: Server, engine_python: str | None, versions: list[ModelVersion]) -> Answer:
    path = engine_python_of(server, engine_python)
    questions = [ModelQuestion(one.name, str(one.model_dir), one.config) for one in versions]
    try:
        done = subprocess.run(
            [str(path), "-m", "flover_backend.doctor.model_probe"],
            input=msgspec.json.encode(questions),
            env=_environment(server, engine_python),
            capture_output=True,
            check=False,
            cwd="/",
            timeout=PROBE_TIMEOUT_S,
        )
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=Answer)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Answer([Check("fail", "engine's Python", f"{path} does not run: {error}", ADVICE)])
    except (msgspec.DecodeError, IndexError):
        said = done.stderr.decode(errors="replace").strip().splitlines() or [
            f"is it a Python? exit status {done.returncode}, no answer"
        ]
        return Answer([Check("fail", "engine's Python", f"{path}: {said[-1]}", ADVICE)])
