"""Programmatic dependent launch: a kernel's start overlaps the end of the one before it in the stream.

A kernel that is launched with `overlap(...)`'s options calls `wait_for_previous` before its first read of anything
that an earlier kernel writes, and before its first write; only weights may be read above it. Since every kernel of the
chain waits, one that has waited may rely on all earlier ones. `let_next_start` is a hint: the next kernel may occupy
what is left of the chip from there on. (CUDA programming guide, "Programmatic Dependent Launch and Synchronization".)
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit
def wait_for_previous(OVERLAP: tl.constexpr):
    """Block until all earlier kernels have ended and their writes are visible."""
    if OVERLAP:
        tl.extra.cuda.gdc_wait()


@triton.jit
def let_next_start(OVERLAP: tl.constexpr):
    """Allow the next kernel to be scheduled once every program has come here."""
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()


def overlap(device: torch.device) -> dict[str, Any]:
    """Launch keywords: the constexpr OVERLAP, and launch_pdl where the device knows it (compute capability 9.0)."""
    return {"OVERLAP": True, "launch_pdl": True} if _can_overlap(device) else {"OVERLAP": False}


@functools.cache
def _can_overlap(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
