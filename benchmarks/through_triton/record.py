"""The files of results of measurements through Triton: beside the figures what made them and on what machine."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.through_triton.bare import Bare


def write_record(path: Path, program: str, bare: Bare, started: float, /, **content: Any) -> None:
    """JSON of `content`, headed by this process's command line and what `bare` says of the machine.

    `program`: as `python -m` takes it. `started`: monotonic seconds. An older file is overwritten.
    """
    plain = {
        "command": shlex.join(["python", "-m", program, *sys.argv[1:]]),
        "machine": bare.machine,
        "copy_bandwidth": bare.copy_bandwidth,
        "products_13b_ms": bare.products_13b_ms,
        **content,
        "seconds": time.monotonic() - started,
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(plain)))
