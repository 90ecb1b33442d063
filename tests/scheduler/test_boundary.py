"""The scheduler is pure Python: importing it loads no tensors and no Triton."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_scheduler_loads_no_torch_and_no_triton():
    code = (
        "import sys, flover_backend.scheduler.scheduler; "
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'triton', 'tritonclient')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
