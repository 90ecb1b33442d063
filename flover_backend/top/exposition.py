"""What one scrape of /metrics says of each flover model. Knows the exposition format and our families, no time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from prometheus_client.parser import text_string_to_metric_families

PREFIX = "flover_"
INFO = "flover_model_info"
OWN_LABELS = ("model", "version")
DISTRIBUTION_ENDS = ("_bucket", "_sum", "_count")
COUNTER_ENDS = ("_total", *DISTRIBUTION_ENDS)

# NOTE: Triton 24.10 keeps what a model wrote, its gauges too, when the model is unloaded. Of its own families for the
# model it takes the second away two seconds later and leaves the first.
LEFT_BEHIND, TAKEN_AWAY = "nv_inference_request_failure", "nv_inference_count"

Series: TypeAlias = tuple[str, str]
"""Sample name, and the value of the one label that it has besides model and version ("" for none)."""


@dataclass(frozen=True, slots=True, order=True)
class ModelKey:
    """A model as Triton names it."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model}/{self.version}"

    def is_meant_by(self, wanted: str) -> bool:
        """`wanted`: NAME, or NAME/VERSION."""
        return wanted in (self.model, str(self))


@dataclass(slots=True)
class Reading:
    """One model's series. Absent series read as 0, so a server of another release still shows what it has."""

    values: dict[Series, float] = field(default_factory=dict)
    info: dict[str, str] = field(default_factory=dict)
    """The labels of `flover_model_info`: max_rows, block_size, dtype, max_model_len, reorder."""

    def value(self, name: str, label: str = "") -> float:
        """Of one series."""
        return self.values.get((name, label), 0.0)

    def by_label(self, name: str) -> dict[str, float]:
        """Label value -> value."""
        return {label: value for (sample, label), value in self.values.items() if sample == name}

    def buckets(self, name: str) -> dict[float, float]:
        """Upper bound -> cumulative count of the distribution `name`, in the order of the bounds."""
        return dict(sorted((float(bound), count) for bound, count in self.by_label(f"{name}_bucket").items()))

    def has_restarted_since(self, earlier: Reading) -> bool:
        """A counter never falls but when its model was loaded anew."""
        return any(
            value < earlier.values.get(series, -math.inf)
            for series, value in self.values.items()
            if series[0].endswith(COUNTER_ENDS)
        )


def parse(text: str) -> dict[ModelKey, Reading]:
    """The flover models of an exposition; empty when there are none. Raises ValueError when it is no exposition."""
    readings: dict[ModelKey, Reading] = {}
    named: dict[str, set[ModelKey]] = {LEFT_BEHIND: set(), TAKEN_AWAY: set()}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not all(label in sample.labels for label in OWN_LABELS):
                continue
            key = ModelKey(sample.labels["model"], sample.labels["version"])
            if family.name in named:
                named[family.name].add(key)
            if family.name.startswith(PREFIX):
                # NOTE: the parser appends _total to counters' names, a distribution's families among them.
                name = family.name if family.name.endswith(DISTRIBUTION_ENDS) else sample.name
                _note(readings.setdefault(key, Reading()), name, sample.labels, float(sample.value))
    unloaded = named[LEFT_BEHIND] - named[TAKEN_AWAY]
    return {key: readings[key] for key in sorted(readings) if readings[key].info and key not in unloaded}


def _note(reading: Reading, name: str, labels: Mapping[str, str], value: float) -> None:
    others = {label: text for label, text in labels.items() if label not in OWN_LABELS}
    if name == INFO:
        # NOTE: what a reload has replaced is still there, with value 0.
        reading.info = others if value or not reading.info else reading.info
    else:
        reading.values[name, next(iter(others.values()), "")] = value
