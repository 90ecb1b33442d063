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

SERVERS = frozenset(
    "benchmarks cli client cluster deploy faults live neighbours process pytriton server top".split()  # noqa: SIM905
)
"""Folders whose tests start processes and look at what they leave behind: one after another, in one process."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files may run beside each other, but for those of SERVERS, and those of the importer, which share a model."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            folder = file.split("/")[1]
            return "servers" if folder in SERVERS else folder if folder == "importer" else file

    return ByFolder(config, log)
