"""The kernels' tests: on the GPU where there is one, else on Triton's interpreter (tests/conftest.py chooses it)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_GPU = torch.cuda.is_available() and not INTERPRETED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the whole session: what needs a GPU is skipped where there is none."""
    for item in items:
        if not HAS_GPU and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and torch sees none"))
        elif not HAS_GPU and not INTERPRETED and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="torch sees no GPU; TRITON_INTERPRET=1 runs this without one"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if HAS_GPU else torch.device("cpu")
