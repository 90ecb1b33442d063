"""What every test process starts with, set before anybody imports torch: one compute thread that never spins, and
Triton's interpreter where there is no NVIDIA GPU (Triton reads that when it is imported; transformers imports it).

The models of the tests are tiny: a second thread costs them more than it gives, and on a busy machine spinning
threads made iterations twenty times as long.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")
