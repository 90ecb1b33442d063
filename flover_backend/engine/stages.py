"""How long each part of a load took: the stages that `progress` tells, timed where one follows the other."""

from __future__ import annotations

import time
from collections.abc import Callable


class StageTimes:
    """A `progress` that passes on what it is told and keeps the seconds between first mentions of stages."""

    def __init__(self, progress: Callable[[str, float], None], clock: Callable[[], float] = time.perf_counter) -> None:
        self._progress, self._clock = progress, clock
        self._starts: dict[str, float] = {}

    def __call__(self, stage: str, fraction: float) -> None:
        """`stage` is at `fraction` now."""
        if stage not in self._starts:
            self._starts[stage] = self._clock()
        self._progress(stage, fraction)

    @property
    def seconds(self) -> dict[str, float]:
        """Stage -> seconds until the next stage began; the latest stage is not in it."""
        stages, starts = list(self._starts), list(self._starts.values())
        return {stage: end - start for stage, start, end in zip(stages, starts, starts[1:], strict=False)}

    def describe(self) -> str:
        """The stages in words."""
        parts = self.seconds
        return ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in parts.items()) + (
            f"; {sum(parts.values()):.2f} s in all"
        )
