"""Names for what the host does in an iteration, for whoever looks: NVTX ranges, and torch.profiler's.

Off by default, and then a range costs a tenth of a microsecond. `FLOVER_NVTX=1` switches them on, as
`flover bench trace` does.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

import torch

_NOTHING = nullcontext()


class Ranges:
    """`with phase("plan"): ...`"""

    def __init__(self) -> None:
        self.enabled = os.environ.get("FLOVER_NVTX") == "1"

    def __call__(self, name: str) -> AbstractContextManager[None]:
        """A range around what the caller does, nothing while off."""
        return _Range(name) if self.enabled else _NOTHING


class _Range(AbstractContextManager[None]):
    def __init__(self, name: str) -> None:
        self._name = name
        self._function = torch.profiler.record_function(name)

    def __enter__(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.nvtx.range_push(self._name)  # type: ignore[no-untyped-call]
        self._function.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._function.__exit__(kind, error, at)
        if torch.cuda.is_available():
            torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]


phase = Ranges()
"""Of this process."""
