"""When the next plan is due: as late as the device still stays busy, so that requests join the very next iteration.

With pipeline depth 1 a plan is launched while the iteration before it runs. Made at once, it would leave every request
that arrives during that iteration to the one after the next: two and a half iterations to a first token, in place of
one and a half. Knows times, numbers of rows and of prompt tokens; nothing of devices or requests.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from flover_backend.scheduler.plan import Plan

FIRST_LEAD_S, MIN_LEAD_S, MAX_LEAD_S = 2e-3, 0.8e-3, 8e-3
SLACK_S = 0.8e-3
"""A launch should be over so long before the device needs it; time for a busy host to be late."""
PROMPT_BLOCK = 32
"""Prompt tokens of an iteration are told apart by so many: graphs of mixed iterations are hardly finer."""
FORGETTING = 0.1
"""How fast an iteration's expected time grows with later ones that take longer (contexts grow); shorter ones count
at once."""
SHRINKING, GROWING = 0.05, 1.0
"""Of the difference to `SLACK_S`, by which the lead changes: at once when it was too short, slowly when too long."""


class Pacer:
    """Owns the expected times of iterations by prompt tokens and rows, and the lead that a launch needs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.due = 0.0
        """Seconds of the clock; nothing is gained by planning before."""
        self.lead = FIRST_LEAD_S
        self._expected: defaultdict[int, dict[int, float]] = defaultdict(dict)
        self._running: tuple[int, int] | None = None
        """What the launched iteration computes, `_size_of` it."""
        self._began = 0.0
        self._returned = 0.0
        self._was_paced = False

    def planning(self) -> None:
        """A plan is being made now."""
        self._was_paced = self.due > self._returned and self._clock() >= self.due

    def launched(self, plan: Plan, waited: float | None) -> None:
        """`plan` runs from now on; the result of the one before was waited for during `waited` seconds after launch.

        None: there was none to wait for, or the runner does not run ahead.
        """
        now = self._clock()
        if waited is not None and self._running is not None:
            self._ended(self._running, now - self._began, waited)
        self._running = None if plan.is_empty else _size_of(plan)
        self._began = self._returned = now
        self.due = 0.0 if self._running is None else now + self._expect(*self._running) - self.lead

    def _ended(self, size: tuple[int, int], seconds: float, waited: float) -> None:
        prompt_blocks, num_rows = size
        expected = self._expected[prompt_blocks]
        known = expected.get(num_rows, seconds)
        expected[num_rows] = min(seconds, known + FORGETTING * (seconds - known))
        if self._was_paced:
            late = SLACK_S - waited
            share = GROWING if late > SLACK_S / 2 else SHRINKING
            self.lead = min(max(self.lead + share * late, MIN_LEAD_S), MAX_LEAD_S)

    def _expect(self, prompt_blocks: int, num_rows: int) -> float:
        """At least so long: no iteration is shorter than one of fewer rows, or than one without prompts."""
        expected = self._expected[prompt_blocks]
        fewer = [rows for rows in expected if rows <= num_rows]
        if fewer:
            return expected[max(fewer)]
        return self._expect(0, num_rows) if prompt_blocks else 0.0


def _size_of(plan: Plan) -> tuple[int, int]:
    """Blocks of prompt tokens, rows."""
    num_prompt_tokens = sum(len(chunk.token_ids) for chunk in plan.chunks)
    return -(-num_prompt_tokens // PROMPT_BLOCK), plan.num_rows
