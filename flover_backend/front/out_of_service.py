"""What a front does when there will be no engine any more: the model must not look ready to those who ask Triton.

Up to 25.11 Triton calls a model ready as long as it is loaded, whatever has become of its instances: so it is unloaded,
which Triton allows in the explicit model-control mode. Elsewhere this process ends: servers from 25.12 on see that and
call the model not ready. Knows Triton's model control; no requests.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

from flover_backend.front.logs import Log
from flover_backend.stub_memory import arguments_of

EXIT_CODE = 1
CONTROL_MODE = "--model-control-mode"


class OutOfService:
    """Called once, when every request has had its end; not from Triton's thread."""

    def __init__(
        self,
        pb_utils: Any,
        model: str,
        server_pid: int,
        log: Log,
        close: Callable[[], None],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """`close()` ends this front's threads."""
        self._pb_utils = pb_utils
        self._model = model
        self._server_pid = server_pid
        self._log = log
        self._close = close
        self._end = end

    def __call__(self) -> None:
        """Unload the model, or end this process."""
        # NOTE: not tried where it will be refused: the stub of 24.10 then crashes more often than not.
        if hasattr(self._pb_utils, "unload_model") and is_explicit(arguments_of(self._server_pid)):
            try:
                self._pb_utils.unload_model(self._model)
            except Exception as error:  # another instance was first
                self._log.warn(f"the model was not unloaded by this instance: {error}")
            else:
                self._log.error("the model is being unloaded, as it has no engine any more; load it to try again")
            return
        self._log.error("this instance ends, as it has no engine any more, and this server does not let it unload")
        # NOTE: a thread that dies while it speaks to Triton may leave a lock taken, on which 24.10 aborts as a whole.
        self._close()
        self._end(EXIT_CODE)


def is_explicit(arguments: Sequence[str]) -> bool:
    """Whether a tritonserver's command line has the model-control mode in which instances may unload a model."""
    values = [after for flag, after in itertools.pairwise(arguments) if flag == CONTROL_MODE]
    values += [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{CONTROL_MODE}=")]
    return values[-1:] == ["explicit"]
