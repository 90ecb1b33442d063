"""The GPU engine's tests: on the GPU where there is one, else its kernels on Triton's interpreter, without graphs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

for neighbour in ("engine", "models", "process"):
    sys.path.insert(0, str(Path(__file__).parent.parent / neighbour))

from engine_host import Host, private_host  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_GPU = torch.cuda.is_available() and not INTERPRETED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Neither a GPU nor the interpreter: no test; without a GPU, none that is marked to need one."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        if not HAS_GPU and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and torch sees none"))
        elif not HAS_GPU and not INTERPRETED:
            item.add_marker(pytest.mark.skip(reason="torch sees no GPU; TRITON_INTERPRET=1 runs this without one"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if HAS_GPU else torch.device("cpu")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with private_host(tmp_path, monkeypatch.setenv) as host:
        yield host
