"""Whether this process's NumPy and Triton's Python backend understand each other.

The backend of Triton 24.10 and its like misreads arrays of NumPy 2: strides become 0, strings end the process. Later
ones take it. A number array is sent through the backend's own conversion and compared; strings are not tried, since
they would kill the process.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flover_backend.errors import ConfigError


def check_numpy(pb_utils: Any) -> None:
    """Raise `ConfigError` when an array does not survive the way through Triton's tensor type."""
    if int(np.__version__.split(".")[0]) < 2:
        return
    sent = np.arange(6, dtype=np.int32)
    try:
        tensor = pb_utils.Tensor.from_dlpack("check", pb_utils.Tensor("check", sent))
        received = tensor.as_numpy()
        fits = bool(np.array_equal(received, sent))
    except Exception:
        fits = False
    if not fits:
        raise ConfigError(
            f"numpy {np.__version__}: this Triton's Python backend reads its arrays wrongly (it was built for "
            "NumPy 1); install 'numpy<2' in the environment of the stub"
        )
