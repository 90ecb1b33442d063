"""What every test process starts with: one compute thread that never spins, set before anybody imports torch.

The models of the tests are tiny: a second thread costs them more than it gives, and on a busy machine spinning
threads made iterations twenty times as long.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
