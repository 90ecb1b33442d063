"""The bare engine on given workloads, in a process with torch: `python -m ... SPEC.json RESULT.json`.

A process of its own, so that its GPU memory is free again when a server starts, and so that clients need no torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from flover_backend.engine.threads import set_thread_counts

set_thread_counts()  # before torch is imported

import torch  # noqa: E402

from flover_backend.bench_engine.drive import Arrival, Record, drive  # noqa: E402
from flover_backend.bench_engine.machine import describe_machine, in_words  # noqa: E402
from flover_backend.bench_engine.probes import Products, copy_bandwidth  # noqa: E402
from flover_backend.bench_engine.session import free_device  # noqa: E402
from flover_backend.bench_engine.shapes import SHAPES  # noqa: E402
from flover_backend.config import ModelJson  # noqa: E402
from flover_backend.engine.load import load_engine  # noqa: E402
from flover_backend.engine.sizing import resolve_device  # noqa: E402
from flover_backend.front.model_dir import resolve_model_dir  # noqa: E402

WARM_TOKENS = 16


def main() -> None:
    """Reads the specification, writes what was measured."""
    spec = msgspec.json.decode(Path(sys.argv[1]).read_bytes())
    config = msgspec.convert(spec["keys"], ModelJson)
    device = resolve_device(config.device)
    facts: dict[str, Any] = {"machine": describe_machine(device)}
    print(in_words(facts["machine"]), flush=True)
    if spec["probes"]:
        facts |= _probe(device, spec["product_rows"])
    runs = _measure(config, spec["workloads"]) if spec["workloads"] else {}
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(facts | {"runs": runs}, enc_hook=str))


def _measure(config: ModelJson, workloads: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    engine, _ = load_engine(config, resolve_model_dir(config.model, Path.cwd()), lambda stage, fraction: None)
    runs: dict[str, list[dict[str, Any]]] = {}
    for work in workloads:
        arrivals = [Arrival(at, prompt, new) for at, prompt, new in work["requests"]]
        drive(engine, [Arrival(0.0, one.prompt, min(one.new_tokens, WARM_TOKENS)) for one in arrivals])
        runs[work["name"]] = [_figures(drive(engine, arrivals)) for _ in range(work["repeats"])]
        walls = ", ".join(f"{one['wall_s']:.3f}" for one in runs[work["name"]])
        print(f"bare engine, {work['name']}: {walls} s", flush=True)
    return runs


def _probe(device: torch.device, rows: list[int]) -> dict[str, Any]:
    """Copy bandwidth; on a GPU the weight products of LLaMA-13B, which reference measurements are scaled by."""
    found: dict[str, Any] = {"copy_bandwidth": copy_bandwidth(device).median, "products_13b_ms": {}}
    if device.type == "cuda":
        products = Products(SHAPES["13b"], torch.float16, device)
        found["products_13b_ms"] = {count: products.seconds(count).median * 1e3 for count in rows}
        del products
    free_device(device)
    told = ", ".join(f"{count}: {ms:.3f}" for count, ms in found["products_13b_ms"].items())
    of_13b = f"; products of 13b by rows, ms: {told}" if told else ""
    print(f"copy bandwidth {found['copy_bandwidth'] / 1e12:.3f} TB/s{of_13b}", flush=True)
    return found


def _figures(record: Record) -> dict[str, Any]:
    first: dict[int, float] = {}
    for at, requests in record.steps:
        for request in requests:
            first.setdefault(request, at - record.added[request])
    waits = sorted(first.values())
    return {
        "wall_s": record.end - min(record.added),
        "tokens": sum(len(requests) for _, requests in record.steps),
        "iterations": len(record.steps),
        "first_p50_ms": waits[(len(waits) - 1) // 2] * 1e3,
    }


if __name__ == "__main__":
    main()
