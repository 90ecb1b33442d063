"""What a profiler saw of some iterations: spans of the host's phases and of the device's kernels, in microseconds.

Reads the Chrome trace that torch.profiler writes. Knows no engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PHASES = ("plan", "run", "commit")
"""The host's ranges, as engine/engine.py names them."""
_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
KINDS = (
    ("copies", r"memcpy|memset|^_copy_kernel"),
    ("attention", r"attention|attn|flash|fmha|decode_kernel|prefill|plan_kernel"),
    ("sampling", r"sampl|argmax|top_?[kp]|softmax|logit|penal|threshold|cdf|choose|statistic|floors"),
    ("products", r"gemm|gemv|nvjet|cutlass|cublas|splitk|xmma|skinny|matmul"),
    ("norms", r"norm"),
    ("rotary, KV write", r"rota|rope|write_kv"),
    ("activation", r"silu|gelu|activation|gated"),
    ("row state", r"prepare|advance|_move_kernel|_apply_kernel|embed"),
)
"""(kind, what its kernels' names look like); the first that fits counts."""
OTHER = "other"
_PATTERNS = [(kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in KINDS]


@dataclass(frozen=True, slots=True)
class Span:
    """`lane`: a phase of the host, or a kind of kernel. `start` and `end` are microseconds."""

    lane: str
    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """Both sides in order of their starts, from 0."""

    host: list[Span]
    device: list[Span]

    @property
    def idle_share(self) -> float:
        """Of the time from the first kernel to the end of the last, how much no kernel ran."""
        if not self.device:
            return 1.0
        whole = max(span.end for span in self.device) - self.device[0].start
        return 1.0 - busy(self.device) / whole

    def seconds_by_kind(self) -> dict[str, float]:
        """Time in which kernels of each kind ran (kinds may overlap), the longest first."""
        kinds = dict.fromkeys(span.lane for span in self.device)
        sums = {kind: busy(span for span in self.device if span.lane == kind) / 1e6 for kind in kinds}
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def after(self, start: float) -> Timeline:
        """Only what begins at `start` or later."""
        return Timeline([s for s in self.host if s.start >= start], [s for s in self.device if s.start >= start])


def busy(spans: Iterable[Span]) -> float:
    """Microseconds in which at least one of the spans ran."""
    total, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.start):
        total += max(0.0, span.end - max(span.start, until))
        until = max(until, span.end)
    return total


def kind_of(kernel: str) -> str:
    """The lane of a kernel or copy, from its name."""
    return next((kind for kind, pattern in _PATTERNS if pattern.search(kernel)), OTHER)


def read_trace(path: Path) -> Timeline:
    """A Chrome trace of torch.profiler's."""
    return from_events(json.loads(path.read_bytes())["traceEvents"])


def from_events(events: Iterable[dict[str, Any]]) -> Timeline:
    """Complete events ("ph": "X"); anything else is left out."""
    host, device = [], []
    for event in events:
        if event.get("ph") != "X":
            continue
        name, start = event["name"], float(event["ts"])
        if event.get("cat") in _DEVICE:
            device.append(Span(kind_of(name), name, start, start + float(event["dur"])))
        elif event.get("cat") == "user_annotation" and name in PHASES:
            host.append(Span(name, name, start, start + float(event["dur"])))
    first = min((span.start for span in (*host, *device)), default=0.0)
    return Timeline(_from_zero(host, first), _from_zero(device, first))


def _from_zero(spans: list[Span], first: float) -> list[Span]:
    moved = [Span(s.lane, s.name, s.start - first, s.end - first) for s in spans]
    return sorted(moved, key=lambda span: span.start)
