"""How long an iteration may take until it is called a hang: a floor, and a multiple of what its tokens should cost.

A long prompt on a slow CPU takes many seconds and is no hang; a decode iteration that takes three seconds is one. Knows
plans and the cost model; who judges, and what follows, is the fronts' business (front/pulse.py).
"""

from __future__ import annotations

from flover_backend.engine.costs import IterationCost
from flover_backend.models.batch import Model
from flover_backend.scheduler.plan import Plan

FLOOR_S = 3.0
"""What every iteration may take; with the heartbeat's own delays a hang is noticed within 5 s."""
SLACK = 6.0
"""An iteration may take so many times what its tokens should cost: constants of another machine, and neighbours."""
LEARN_S = 0.1
"""Shorter iterations say nothing: what delays them is not their tokens."""
FORGETTING = 0.9
"""By which the slowness seen falls with each iteration that is faster."""
COMPILE_S = 30.0
"""On a GPU more prompt tokens than in any iteration before may need a kernel that is compiled then."""


class Allowance:
    """Owns `seconds`, of the present iteration. One thread plans; any may read."""

    def __init__(self, model: Model) -> None:
        self.seconds = FLOOR_S
        self._cost = IterationCost.of(model)
        self._compiles = model.device.type == "cuda"
        self._most_tokens = 0
        self._expected = 0.0
        self._slowness = 1.0
        """How many times as long as expected iterations take here, at least 1."""

    def planned(self, plan: Plan) -> None:
        """`plan` runs from now on; the one before may be running still."""
        num_tokens = plan.num_rows + sum(len(chunk.token_ids) for chunk in plan.chunks)
        before, self._expected = self._expected, 0.0 if plan.is_empty else self._cost.seconds(num_tokens)
        seconds = FLOOR_S + SLACK * self._slowness * (before + self._expected)
        if self._compiles and num_tokens > self._most_tokens:
            self._most_tokens = num_tokens
            seconds += COMPILE_S
        self.seconds = seconds

    def ended(self, seconds: float) -> None:
        """The iteration took so long."""
        ratio = seconds / self._expected if self._expected and seconds >= LEARN_S else 1.0
        self._slowness = max(1.0, ratio, FORGETTING * self._slowness)
        self.seconds = FLOOR_S
