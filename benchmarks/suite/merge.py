"""Results of several commands as one. Pure; knows no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from benchmarks.suite.figures import family
from benchmarks.suite.result import Results, Run
from flover_backend.errors import ConfigError


def merge(parts: Sequence[Results]) -> Results:
    """Every run with the command and commit that it came from.

    A later part's runs take the place of an earlier one's of the same workload: of the same way and layer, and of every
    way whose requests came at other times (another scale), since no ratio may be made of those. Bandwidth and weight
    products, of which S is made, are the last part's. Raises `ConfigError` where models or devices differ.
    """
    if not parts:
        raise ConfigError("--merge has no results file; give one at least")
    for part in parts:
        if _measured(part) != _measured(parts[-1]):
            told = " and ".join(f"{models} on {gpus} x {device}" for models, device, gpus, _ in
                                map(_measured, (part, parts[-1])))  # fmt: skip
            raise ConfigError(f"--merge of {told}; allowed: one model on one kind of device")
    runs: list[Run] = []
    for part in parts:
        runs = [run for run in runs if not any(_replaces(new, run) for new in part.runs)]
        runs += [_signed(run, part) for run in part.runs]
    return msgspec.structs.replace(
        parts[-1],
        command="; ".join(dict.fromkeys(part.command for part in parts)),
        commit=", ".join(dict.fromkeys(part.commit for part in parts)),
        machine=_machines([part.machine for part in parts]),
        runs=runs,
        seconds=sum(part.seconds for part in parts),
    )


def _measured(part: Results) -> tuple[str, str, int, int]:
    """What all parts must have in common."""
    models = ", ".join(sorted({run.model for run in part.runs}))
    return models, part.machine.get("gpu") or "CPU", part.num_gpus, part.kv_bytes_per_token


def _replaces(new: Run, old: Run) -> bool:
    if (new.model, new.workload) != (old.model, old.workload):
        return False
    same_times = [r.at for r in new.requests] == [r.at for r in old.requests]
    return (new.way, new.layer) == (old.way, old.layer) or (family(new.layer) == family(old.layer) and not same_times)


def _signed(run: Run, part: Results) -> Run:
    return msgspec.structs.replace(run, command=run.command or part.command, commit=run.commit or part.commit)


def _machines(machines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts of all; those that differ with each value once."""
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for machine in machines for key in machine):
        values = list(dict.fromkeys(machine.get(key) for machine in machines))
        found[key] = values[0] if len(values) == 1 else ", ".join(map(str, values))
    return found
