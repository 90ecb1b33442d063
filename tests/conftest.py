"""What every test process starts with, set before anybody imports torch: one compute thread that never spins, and
Triton's interpreter where there is no NVIDIA GPU (Triton reads that when it is imported; transformers imports it).

The models of the tests are tiny: a second thread costs them more than it gives, and on a busy machine spinning
threads made iterations twenty times as long. `make test` gives the second core a second process instead.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

ONE_AFTER_ANOTHER = {
    "servers": "client cluster faults live neighbours pytriton top",
    "commands": "benchmarks cli deploy server",
    "importer": "importer",
}
"""Folders whose tests share a server or a model, in lots: each lot runs in one process, and lots beside each other.

The first two start servers, which mostly wait; what computes takes the cores meanwhile. Longest first.
"""
LOT_OF = {folder: lot for lot, folders in ONE_AFTER_ANOTHER.items() for folder in folders.split()}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files may run beside each other, but for those of one lot."""
    from xdist.scheduler import LoadScopeScheduling

    class ByLot(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return LOT_OF.get(file.split("/")[1], file)

    return ByLot(config, log)
