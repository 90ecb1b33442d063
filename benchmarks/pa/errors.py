"""What can go wrong in a measurement. Each text says what was found and what to do."""

from __future__ import annotations

from flover_backend.errors import FloverError


class MeasurementFailed(FloverError):
    """There are no figures: a flag is wrong, perf_analyzer failed, or its export cannot be read."""


class BrokenExport(MeasurementFailed):
    """The export is no JSON, or lacks requests that were sent.

    perf_analyzer 2.51 stops writing at a number that JSON cannot hold, and finds one now and then in the memory that
    it writes for an output which a response lacks (cumulative_logprob). On a machine that is busy otherwise, an export
    of its periodic mode held 3 of 12 requests.
    """
