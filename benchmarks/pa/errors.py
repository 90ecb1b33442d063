"""What can go wrong in a measurement. Each text says what was found and what to do."""

from __future__ import annotations

from flover_backend.errors import FloverError


class MeasurementFailed(FloverError):
    """There are no figures: a flag is wrong, perf_analyzer failed, or its export cannot be read."""
