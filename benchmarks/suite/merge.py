"""Results of several commands as one. Pure; knows no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from benchmarks.suite.figures import family
from benchmarks.suite.result import Results, Run
from flover_backend.errors import ConfigError

LENGTHS = ("prompt", "max_total", "min_total", "prompts", "outputs", "seed")
"""Of a workload's facts: what its requests' lengths were made of, known of requests that failed, too."""


def merge(parts: Sequence[Results]) -> Results:
    """Every run with the command and commit that it came from.

    A later part's runs take the place of an earlier one's of the same workload: of the same way and layer, and of every
    way whose requests were others (another scale, another length), since no ratio may be made of those. Commands,
    commits and seconds are of the parts whose runs remain; seconds are 0 where a part does not tell them for those
    alone. Bandwidth and weight products, of which S is made, are the last part's. Raises `ConfigError` where models or
    machines differ.
    """
    if not parts:
        raise ConfigError("--merge has no results file; give one at least")
    for part in parts:
        if _measured(part) != _measured(parts[-1]):
            told = " and ".join(map(_measured, (part, parts[-1])))
            raise ConfigError(f"--merge of {told}; allowed: one model on one kind of machine, with one torch")
    signed = [[_signed(run, part) for run in part.runs] for part in parts]
    kept: list[tuple[int, Run]] = []
    for place, runs in enumerate(signed):
        kept = [(of, run) for of, run in kept if not any(_replaces(new, run) for new in runs)]
        kept += [(place, run) for run in runs]
    remaining = sorted({place for place, _ in kept}) or [len(parts) - 1]
    seconds = [
        _seconds(parts[place], signed[place], {run.command for of, run in kept if of == place}) for place in remaining
    ]
    return msgspec.structs.replace(
        parts[-1],
        command=_joined([run.command for _, run in kept], "; ") or parts[-1].command,
        commit=_joined([run.commit for _, run in kept], ", ") or parts[-1].commit,
        machine=_machines([parts[place].machine for place in remaining]),
        runs=[run for _, run in kept],
        failed=list(dict.fromkeys(line for part in parts for line in part.failed)),
        seconds=sum(seconds) if all(seconds) else 0.0,
    )


def _measured(part: Results) -> str:
    """What all parts must have in common, in words."""
    models = ", ".join(sorted({run.model for run in part.runs})) or "no runs"
    machine = part.machine
    device = machine.get("gpu") or "CPU"
    return (
        f"{models} on {part.num_gpus} x {device} ({machine.get('cpus')} CPU cores, torch {machine.get('torch')}, "
        f"{part.kv_bytes_per_token} bytes of KV a token)"
    )


def _replaces(new: Run, old: Run) -> bool:
    if (new.model, new.workload) != (old.model, old.workload):
        return False
    if (new.way, new.layer) == (old.way, old.layer):
        return True
    return family(new.layer) == family(old.layer) and not _same_requests(new, old)


def _same_requests(one: Run, other: Run) -> bool:
    """Times and lengths as asked. A request that failed has fewer tokens than it asked for."""
    return (
        len(one.requests) == len(other.requests)
        and [one.facts.get(name) for name in LENGTHS] == [other.facts.get(name) for name in LENGTHS]
        and all(
            a.at == b.at and (a.error or b.error or (a.prompt_tokens, a.new_tokens) == (b.prompt_tokens, b.new_tokens))
            for a, b in zip(one.requests, other.requests, strict=True)
        )
    )


def _seconds(part: Results, runs: Sequence[Run], remaining: set[str]) -> float:
    """Of the part's commands; 0 where one of them has no run any more: a file has the seconds of all together."""
    commands = [run.command for run in runs]
    return part.seconds if remaining == set(commands) and part.command == _joined(commands, "; ") else 0.0


def _joined(words: Sequence[str], between: str) -> str:
    return between.join(dict.fromkeys(words))


def _signed(run: Run, part: Results) -> Run:
    return msgspec.structs.replace(run, command=run.command or part.command, commit=run.commit or part.commit)


def _machines(machines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts of all; those that differ with each value once."""
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for machine in machines for key in machine):
        values = list(dict.fromkeys(machine.get(key) for machine in machines))
        merged = ", ".join(map(str, values)).split(", ")  # a merged file's own value may be several
        found[key] = values[0] if len(values) == 1 else _joined(merged, ", ")
    return found
