"""Where a measurement was made: machine, GPU, driver, versions, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

import flover_backend


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Plain values for JSON."""
    facts: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cuda": torch.version.cuda,
        "commit": _commit(),
        "device": str(device),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "gpu_memory": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        }
    return facts


def in_words(facts: dict[str, Any]) -> str:
    """One line of the report."""
    where = f"{facts['gpu']}, driver {facts['driver']}" if "gpu" in facts else f"CPU, {facts['cpus']} cores"
    versions = f"torch {facts['torch']}, triton {facts['triton']}, CUDA {facts['cuda']}"
    return f"{where}; {versions}; commit {facts['commit'] or 'unknown'}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the checkout that this package runs from; with a + where files differ from it."""
    root = Path(flover_backend.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    commit = _first_line("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    changed = _first_line("git", "-C", str(root), "status", "--porcelain", "-uno")
    return commit and commit + ("+" if changed else "")


def _first_line(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return answer.stdout.splitlines()[0].strip() if answer.returncode == 0 and answer.stdout.strip() else None
