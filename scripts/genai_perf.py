#!/usr/bin/env python3
"""Makes `.venv-genai-perf`: NVIDIA's genai-perf, pinned, with a perf_analyzer that runs on this machine.

genai-perf asks for newer packages than Triton 24.10 can live with, so it gets an environment of its own, and it asks
for a package perf-analyzer whose binary needs glibc 2.38: that one is left out, and the environment's
`bin/perf_analyzer` starts the binary of the tritonclient wheel in `.venv`, whose Python runs this. A second run with
nothing changed does nothing.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.pa.binary import PerfAnalyzer, lay_out_perf_analyzer  # noqa: E402
from flover_backend.errors import FloverError  # noqa: E402

VENV = REPOSITORY / ".venv-genai-perf"
LOCK = REPOSITORY / "benchmarks" / "genai-perf.txt"
STAMP = VENV / "flover-setup.txt"


def main() -> None:
    """Bring the environment up to date and say how to use it, or exit with 1 and what to do."""
    try:
        make()
    except FloverError as error:
        raise SystemExit(f"genai-perf: {error}") from None
    print(f"genai-perf is ready:  . {VENV.name}/bin/activate && genai-perf profile --help  (docs/measuring.md)")


def make() -> Path:
    """Returns the environment's `bin`. Raises `MeasurementFailed`; exits when a package cannot be installed."""
    wanted = hashlib.sha256(LOCK.read_bytes() + f"{sys._base_executable} {sys.hexversion} {VENV}".encode()).hexdigest()
    if not STAMP.exists() or STAMP.read_text() != wanted:
        STAMP.unlink(missing_ok=True)
        run("making .venv-genai-perf", [sys._base_executable, "-m", "venv", "--clear", str(VENV)])
        pip = [str(VENV / "bin" / "python"), "-m", "pip", "--no-input", "--disable-pip-version-check", "install", "-q"]
        run("installing genai-perf (about a gigabyte)", [*pip, "--no-deps", "-r", str(LOCK)])
    write_launcher(lay_out_perf_analyzer(VENV / "perf_analyzer_libraries"), VENV / "bin" / "perf_analyzer")
    STAMP.write_text(wanted)
    return VENV / "bin"


def write_launcher(analyzer: PerfAnalyzer, path: Path) -> None:
    """A shell script that starts the binary with its libraries: genai-perf takes the first perf_analyzer on PATH."""
    libraries = f"{shlex.quote(str(analyzer.libraries))}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
    path.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {shlex.quote(str(analyzer.path))} "$@"\n')
    path.chmod(0o755)


def run(what: str, command: list[str]) -> None:
    """A step, or exit naming it."""
    print(f"genai-perf: {what}", flush=True)
    status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    if status:
        raise SystemExit(
            f"genai-perf: {what} ended with {status}: {shlex.join(command)}. Is the package index reachable?"
        )


if __name__ == "__main__":
    main()
