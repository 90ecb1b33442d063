"""What clients are told of restarts is true while one is under way, and once there is none any more."""

from __future__ import annotations

import pytest

from flover_backend.config import ModelJson
from flover_backend.front.restarts import RestartLimit, RestartsUsedUp


def test_the_restart_under_way_is_named_and_old_ones_are_forgotten() -> None:
    now = 0.0
    limit = RestartLimit(ModelJson(engine_restarts=2, engine_restart_window_s=60), lambda: now)
    assert limit.describe() == "restart 1 of 2 within 60 s"
    limit.count_failure()
    now = 30.0
    assert limit.describe() == "restart 2 of 2 within 60 s"
    limit.count_failure()
    assert limit.describe() == limit.used_up() == "it was started again 2 times within 60 s (engine_restarts)"
    with pytest.raises(RestartsUsedUp, match="2 times within 60 s"):
        limit.count_failure()
    now = 95.0
    assert limit.describe() == "restart 1 of 2 within 60 s"
