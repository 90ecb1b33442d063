#!/usr/bin/env python3
"""Runs small tests of the GPU kernels under NVIDIA's compute-sanitizer and prints what it sums up. `make sanitize-gpu`.

Usage: scripts/sanitize_gpu.py [--seconds N] [memcheck|racecheck|synccheck ...]

memcheck: accesses out of bounds or misaligned; racecheck: unordered accesses of shared memory; synccheck: barriers that
not all threads reach. Without a GPU or the tool it says so and ends with 0; an error, a failed test or more than
N seconds (default 300) for a tool end it with 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

TOOLS = ("memcheck", "racecheck", "synccheck")
TESTS = """
not (bfloat16 or float32 or compile or quickly or timing or refuse or cannot or cover or beyond or 1500 or 9000) and (
    gpu_activation or gpu_advance and 1-2 or gpu_argmax and (5-9001 or ties) or gpu_block_copy and 4-
    or gpu_decode_attention and (mixed or left_alone or counters) or gpu_matmul and (shares or gated or 9 or outside)
    or gpu_norm and (576 or 33) or gpu_prefill_attention and (packed or chunks or left_alone)
    or gpu_prepare or gpu_rotary and (96 or 7 or normalized) or gpu_rows and not 40
    or gpu_sampling and (37 or strides or bad_logits or masked)
)
"""
"""A test or a few of each kernel, as pytest's -k takes them: every launch takes many times as long as it does alone."""
FOUND_ERRORS = 99
ROOT = Path(__file__).resolve().parent.parent


def find_sanitizer() -> str | None:
    """On the PATH, else in the newest CUDA toolkit."""
    toolkits = sorted(Path("/usr/local").glob("cuda*/bin/compute-sanitizer"), reverse=True)
    return shutil.which("compute-sanitizer") or next(map(str, toolkits), None)


def command(sanitizer: str, tool: str) -> list[str]:
    """The tests under `tool`; it watches this one process, not the compilers that the process starts."""
    return [
        sanitizer, "--tool", tool, "--target-processes", "application-only", "--error-exitcode", str(FOUND_ERRORS),
        "--print-limit", "20", sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider",
        "-k", " ".join(TESTS.split()), "tests/kernels_gpu",
    ]  # fmt: skip


def check(sanitizer: str, tool: str, seconds: float) -> bool:
    """Run one tool; whether it found nothing. Prints its own lines and pytest's last."""
    # Torch's allocator rounds up and keeps what is freed: behind it a small overrun would hit valid memory.
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    process = subprocess.Popen(
        command(sanitizer, tool), cwd=ROOT, env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the tests too, which the sanitizer started
        output, _ = process.communicate()
        print(f"{tool}: not done within {seconds:g} s\n{output[-2000:]}")
        return False
    lines = output.splitlines()
    told = [line for line in lines if line.startswith("=========")]
    results = [line for line in lines if " passed" in line or " failed" in line or "skipped" in line]
    print(f"{tool}: exit code {process.returncode}; {' '.join(results[-1:])}", *told[:200], sep="\n")
    if process.returncode not in (0, FOUND_ERRORS):
        print(*lines[-60:], sep="\n")
    return process.returncode == 0


def main() -> int:
    """Run the tools that the command line names, all by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tools", nargs="*", metavar="tool", help=f"of {', '.join(TOOLS)}; default: all")
    parser.add_argument("--seconds", type=float, default=300.0, help="the longest that a tool may take")
    arguments = parser.parse_args()
    if unknown := set(arguments.tools) - set(TOOLS):
        parser.error(f"no such tool: {', '.join(sorted(unknown))}; there are {', '.join(TOOLS)}")
    sanitizer = find_sanitizer()
    if sanitizer is None or not any(Path("/dev").glob("nvidia[0-9]*")):
        print("skipped: needs an NVIDIA GPU and compute-sanitizer, which the CUDA toolkit carries")
        return 0
    return 0 if all([check(sanitizer, tool, arguments.seconds) for tool in arguments.tools or TOOLS]) else 1


if __name__ == "__main__":
    sys.exit(main())
