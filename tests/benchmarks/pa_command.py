"""The measuring command, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from live_server import ROOT


def measure(arguments: Sequence[str], timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """Run it from the repository's root."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.perf_analyzer", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
