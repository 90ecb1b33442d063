"""What a front does when there will be no engine any more: the model must not look ready to those who ask Triton.

Up to 25.11 Triton calls a model ready as long as it is loaded, whatever has become of its instances: so it is unloaded,
which Triton allows in the explicit model-control mode, unless another version or a later load serves. Elsewhere this
process ends: servers from 25.12 on see that and call the model not ready. Knows Triton's model control; no requests.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from flover_backend.errors import FloverError
from flover_backend.front.generation import Generation, Standing
from flover_backend.front.logs import Log
from flover_backend.stub_memory import arguments_of
from flover_backend.thread_names import tell_kernel_the_name

EXIT_CODE = 1
CONTROL_MODE = "--model-control-mode"
LOOK_S = 1.0
"""Between two looks at whether others still serve the model."""


class OutOfService:
    """Called once, when every request has had its end; not from Triton's thread."""

    def __init__(
        self,
        pb_utils: Any,
        model: str,
        server_pid: int,
        log: Log,
        close: Callable[[], None],
        generation: Generation,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """This front has loaded. `close()` ends its threads."""
        self._pb_utils = pb_utils
        self._model = model
        self._log = log
        self._close = close
        self._end = end
        self._generation = generation
        # NOTE: not tried where it will be refused: the stub of 24.10 then crashes more often than not.
        self.may_unload = hasattr(pb_utils, "unload_model") and is_explicit(arguments_of(server_pid))
        """Whether loads and unloads are asked for, one by one, and this front has said that it has loaded."""
        if self.may_unload:
            generation.loaded()

    def __call__(self) -> None:
        """Unload the model unless others serve it, or end this process."""
        if self.may_unload:
            if not self._unload():
                self._log.error("this instance is out of service; the model stays loaded while others serve it")
                threading.Thread(target=self._unload_later, name="out-of-service", daemon=True).start()
            return
        self._log.error("this instance ends, as it has no engine any more, and this server does not let it unload")
        # NOTE: a thread that dies while it speaks to Triton may leave a lock taken, on which 24.10 aborts as a whole.
        self._close()
        self._end(EXIT_CODE)

    def _unload_later(self) -> None:
        tell_kernel_the_name()
        while not self._unload():
            time.sleep(LOOK_S)

    def _unload(self) -> bool:
        """False when it may have to be done later: Triton unloads by name, other versions and later loads too."""
        try:
            standing = self._generation.take()
            if standing is Standing.LAST:
                self._unload_by_name()
        except (FloverError, OSError) as error:
            self._log.error(f"this instance does not unload the model, as it cannot tell who else serves it: {error}")
            return True
        if standing is Standing.OVER:
            self._log.info("the model is not unloaded by this instance: another one did, or it was loaded anew")
        return standing is not Standing.AMONG_OTHERS

    def _unload_by_name(self) -> None:
        try:
            self._pb_utils.unload_model(self._model)
        except Exception as error:
            self._log.warn(f"the model was not unloaded by this instance: {error}")
            self._generation.give_back()
        else:
            self._log.error("the model is being unloaded, as it has no engine any more; load it to try again")


def is_explicit(arguments: Sequence[str]) -> bool:
    """Whether a tritonserver's command line has the model-control mode in which instances may unload a model."""
    values = [after for flag, after in itertools.pairwise(arguments) if flag == CONTROL_MODE]
    values += [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{CONTROL_MODE}=")]
    return values[-1:] == ["explicit"]
