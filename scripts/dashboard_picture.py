#!/usr/bin/env python3
"""Draws docs/images/dashboard.png: a server with the bundled model under a load that grows, overflows and falls, a real
Prometheus that scrapes it, and the dashboard's own queries as Grafana lays them out. Three minutes on a CPU.

    python scripts/dashboard_picture.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "deploy")]

from flover_backend.config import ModelJson  # noqa: E402
from flover_backend.server import ServerOptions, TritonServer  # noqa: E402
from flover_dashboard.picture import Series, draw  # noqa: E402
from scripts.prometheus_server import PrometheusServer, write_configuration  # noqa: E402

DASHBOARD = REPOSITORY / "deploy" / "grafana" / "flover.json"
TARGET = REPOSITORY / "docs" / "images" / "dashboard.png"
STEP_S = 1
RATE_INTERVAL = "30s"
CONFIG = ModelJson(max_rows=16, max_queued_requests=32, kv_cache_tokens=2048)
"""Few rows, a short queue and a small KV buffer: each of them runs full once."""
PHASES = ((3.0, 35), (8.0, 35), (40.0, 25), (5.0, 40))
"""Requests a second, and for how many seconds."""
LOAD = (
    "--prompt-tokens=8:160",
    "--output-tokens=16:128",
    "--cancel-share=0.05",
    "--processes=1",
)


def main() -> None:
    """Run, ask, draw."""
    with tempfile.TemporaryDirectory() as folder, TritonServer(ServerOptions(CONFIG, instances=2)) as server:
        address = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
        labels = {
            "__meta_kubernetes_pod_container_port_name": "metrics",
            "__meta_kubernetes_namespace": "models",
            "__meta_kubernetes_pod_name": "flover-0",
        }
        config = write_configuration(Path(folder), {address: labels}, f"{STEP_S}s", window="30s", patience="15s")
        with PrometheusServer(config, Path(folder)) as prometheus:
            while not prometheus.query("flover_model_info == 1"):
                time.sleep(STEP_S)
            start = time.time()
            send_load(server.grpc_url)
            time.sleep(10)
            end = time.time()
            draw(TARGET, json.loads(DASHBOARD.read_text()), lambda query: ask(prometheus, query, start, end))
    print(f"wrote {TARGET.relative_to(REPOSITORY)}")


def send_load(url: str) -> None:
    """The phases, one after another; the generator waits for its last answers."""
    for number, (rate, seconds) in enumerate(PHASES):
        print(f"{rate:g} requests/s for {seconds} s", flush=True)
        amount = [f"--rate={rate}", f"--requests={round(rate * seconds)}", f"--seed={number}"]
        command = [sys.executable, "-m", "benchmarks.load", f"--url={url}", *LOAD, *amount]
        subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)


def ask(prometheus: PrometheusServer, query: str, start: float, end: float) -> list[Series]:
    """A panel's query over the whole run, the variables set to all."""
    for name, value in {"$model": ".*", "$instance": ".*", "$__rate_interval": RATE_INTERVAL}.items():
        query = query.replace(name, value)
    found = []
    for series in prometheus.query_range(query, start, end, STEP_S):
        known = {round(float(when) - start): float(value) for when, value in series["values"]}
        times = list(range(0, int(end - start), STEP_S))
        values = [known.get(when, float("nan")) for when in times]
        found.append(Series(series["metric"], [float(when) for when in times], values))
    return found


if __name__ == "__main__":
    main()
