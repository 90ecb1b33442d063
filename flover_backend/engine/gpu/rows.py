"""Row state on the device (kernels/row_layout.py), changed by plans between iterations and by sampled tokens in them."""

from __future__ import annotations
