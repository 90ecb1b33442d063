#!/usr/bin/env python3
"""Writes docs/configuration.md and docs/metrics.md from the tables in the code. `make docs`; a test compares them.

Usage: scripts/reference.py [--check]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flover_backend.cli_options import flag_of
from flover_backend.config import KeyInfo, describe_keys
from flover_backend.metric_families import FAMILIES, Family

DOCS = Path(__file__).resolve().parent.parent / "docs"

CONFIGURATION = """# Configuration

One file, `1/model.json` in the model's folder of the model repository: a JSON object whose keys are all optional. With
only `model` set it is meant to be good. Each key is a flag of `flover serve` too. An unknown key, a wrong type or a
value out of range fails the load, naming the key, what was given and what is allowed. The effective configuration and
the memory arithmetic (weights, activations, KV, free) are logged once at load; on a GPU the
activations there include the recorded graphs.

| key | flag | allowed | default | meaning |
|---|---|---|---|---|
{rows}

The number of fronts is Triton's `instance_group` `count` in config.pbtxt (`flover serve --instances`): all instances of
a model share one engine, and the count changes only how much of the host's work runs side by side. 1 suits a small
host.

Environment: `FLOVER_CACHE` moves the cache of fetched and imported models (default `.cache` of the checkout);
`FLOVER_TORCH_INDEX` names another package index for torch at set-up; `FLOVER_NVTX=1` marks the engine's phases (plan,
run, commit) for profilers; `TRITON_CACHE_DIR` moves the cache of compiled GPU kernels (default `~/.triton/cache`):
keep it between restarts, and a load compiles nothing.
"""

METRICS = """# Metrics

On Triton's `/metrics`, with the labels `model` and `version`. The engine counts; one front, the leader, writes every
0.5 s and when the engine falls idle; another takes over if it goes. A distribution is exported as three counter
families, `<name>_bucket{{le}}`, `<name>_sum` and `<name>_count`, which Prometheus reads as a histogram. Tokens count
when the engine hands them out for delivery; what comes after a stop string is never counted.

| family | kind | labels | meaning |
|---|---|---|---|
{rows}

`nv_inference_*_duration` and the queue and compute times of Triton's own statistics mean little for a decoupled model:
`execute` returns at once, and the work goes on in the engine.
"""


def configuration() -> str:
    """Content of docs/configuration.md."""
    return CONFIGURATION.format(rows="\n".join(_key_row(key) for key in describe_keys()))


def metrics() -> str:
    """Content of docs/metrics.md."""
    return METRICS.format(rows="\n".join(_family_row(family) for family in FAMILIES))


def _key_row(key: KeyInfo) -> str:
    default = "" if key.default is None else f"`{json.dumps(key.default)}`"
    return f"| `{key.name}` | `{flag_of(key.name)}` | {key.allowed} | {default} | {key.description} |"


def _family_row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.kind} | {labels} | {family.help} |"


def main() -> None:
    """Write both files; with --check only say which one is out of date."""
    stale = []
    for name, text in {"configuration.md": configuration(), "metrics.md": metrics()}.items():
        path = DOCS / name
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text)
    if stale and "--check" in sys.argv:
        raise SystemExit(f"docs: {', '.join(stale)} out of date; run make docs")


if __name__ == "__main__":
    main()
