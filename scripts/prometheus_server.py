"""A Prometheus of one's own: started on a free port with a given configuration, asked over its API, ended.

Knows Prometheus; not what it scrapes. Debian's package is unpacked at first use (debian_tools.py).
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from scripts.debian_tools import REPOSITORY, find

RULES = REPOSITORY / "deploy" / "prometheus"
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20


def write_configuration(
    folder: Path, targets: dict[str, dict[str, str]], scrape_interval: str, window: str, patience: str
) -> Path:
    """deploy/prometheus for a short run: kubernetes.yml with `targets` (address -> labels, discovery's `__meta_...`
    among them) in place of discovery, and the rules with every range `window` and every alert's `for` `patience`.
    """
    config = yaml.safe_load((RULES / "kubernetes.yml").read_text())
    config["global"] = {"scrape_interval": scrape_interval, "evaluation_interval": scrape_interval}
    (job,) = config["scrape_configs"]
    del job["kubernetes_sd_configs"]
    job["static_configs"] = [{"targets": [address], "labels": labels} for address, labels in targets.items()]
    for name in config["rule_files"]:
        rules = yaml.safe_load((RULES / name).read_text())
        for rule in [rule for group in rules["groups"] for rule in group["rules"]]:
            rule["expr"] = re.sub(r"\[\w+\]", f"[{window}]", rule["expr"])
            if "for" in rule:
                rule["for"] = patience
        (folder / name).write_text(yaml.safe_dump(rules))
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


class PrometheusServer:
    """A running Prometheus; a context manager. `folder` gets its data and its log."""

    def __init__(self, config: Path, folder: Path) -> None:
        """Raises `debian_tools.NoProgram` where there is none."""
        self._program = find("prometheus")
        self._config = config
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> PrometheusServer:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{holder.getsockname()[1]}"
        self.url = f"http://{address}"
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(self._program),
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={address}",
                    "--log.level=warn",
                ],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_ready(self) -> None:
        assert self._process is not None, "started by __enter__"
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"Prometheus did not start:\n{(self._folder / 'prometheus.log').read_text()[-3000:]}"
                )
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        """End it; does nothing the second time."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of an expression. Raises ValueError with Prometheus's words for one that is wrong."""
        return list(self._get("query", {"query": expression})["result"])

    def query_range(self, expression: str, start: float, end: float, step_s: float) -> list[dict[str, Any]]:
        """The series of an expression between two times."""
        asked = {"query": expression, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step_s:g}"}
        return list(self._get("query_range", asked)["result"])

    def alerts(self) -> list[dict[str, Any]]:
        """Pending and firing alerts, with their annotations filled in."""
        return list(self._get("alerts", {})["alerts"])

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self.alerts() if alert["state"] == "firing"}

    def rule_errors(self) -> dict[str, str]:
        """Rules that could not be evaluated, and why."""
        rules = [rule for group in self._get("rules", {})["groups"] for rule in group["rules"]]
        return {rule["name"]: rule["lastError"] for rule in rules if rule.get("lastError")}

    def _get(self, path: str, asked: dict[str, str]) -> dict[str, Any]:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(asked)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return dict(json.load(answer)["data"])
        except urllib.error.HTTPError as error:
            raise ValueError(f"{asked}: {error.read().decode()}") from None
