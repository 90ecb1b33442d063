"""What a front takes by what it last heard of the queue."""

from __future__ import annotations

import msgspec
import pytest
from small_info import INFO

from flover_backend.channel import Status
from flover_backend.errors import QueueFull
from flover_backend.front.admission import Admission


def test_a_queue_that_was_full_and_has_room_again_holds_nothing_against_later_requests() -> None:
    admission = Admission(msgspec.structs.replace(INFO, max_queued_requests=4))
    admission.update(Status(4, 16, accepting=False, draining=False))
    with pytest.raises(QueueFull, match="the queue is full: 4 requests"):
        admission.enter()
    admission.update(Status(3, 12, accepting=True, draining=False))
    for _ in range(4):
        admission.enter()
    with pytest.raises(QueueFull):
        admission.enter()
    admission.leave()
    admission.enter()
