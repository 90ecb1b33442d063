"""`make fuzz`: libFuzzer, through atheris, guided by the coverage of this package, on one target after another.

    .venv/bin/python tests/fuzz/fuzz.py --runs 20000              every target, one process each
    .venv/bin/python tests/fuzz/fuzz.py --runs 20000 tensors      one

Starts from the corpus. A finding ends with 1 and is written to out/fuzz/<target>/crash-*; once mended it belongs into
tests/fuzz/corpus/<target>, which `make test` replays. Inputs that reach new code are kept in out/fuzz/<target>/found.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus"
OUT = ROOT / "out" / "fuzz"
MAX_BYTES = 4096
HANG_S = 60
MEMORY_MB = 4096
SLOWER = {"engine": 20}
"""An input of these runs a real engine: so many times fewer of them."""


def main() -> int:
    arguments = parse(sys.argv[1:])
    if arguments.inside:
        fuzz(arguments.targets[0], arguments.runs, arguments.seed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the target's process too
    known = sorted(path.name for path in CORPUS.iterdir())
    for name in arguments.targets or known:
        if name not in known:
            print(f"fuzz: no target {name!r}; there are {', '.join(known)}", file=sys.stderr)
            return 2
        status = run_one(name, max(1, arguments.runs // SLOWER.get(name, 1)), arguments.seed)
        if status:
            return status
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="all when none is named")
    parser.add_argument("--runs", type=int, default=20_000, help="inputs for each target; the engine gets a 20th")
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer; 0 draws one")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run_one(name: str, runs: int, seed: int) -> int:
    """Fuzz one target in a process of its own, which libFuzzer ends as it likes."""
    started = time.monotonic()
    found = OUT / name / "found"
    found.mkdir(parents=True, exist_ok=True)
    log = OUT / name / "log.txt"
    command = [sys.executable, __file__, "--inside", "--runs", str(runs), "--seed", str(seed), name]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    seconds = time.monotonic() - started
    if status == 0:
        print(
            f"fuzz: {name}: {runs} inputs, {len(list(found.iterdir()))} reach something of their own, {seconds:.0f} s"
        )
        return 0
    print(log.read_text(errors="replace")[-3000:])
    print(f"fuzz: {name}: found something (status {status}): {log}, and the input beside it")
    return 1


def fuzz(name: str, runs: int, seed: int) -> None:
    """Never returns."""
    sys.path[:0] = [str(ROOT), str(HERE), str(ROOT / "tests" / "engine")]
    import atheris

    with atheris.instrument_imports(include=["flover_backend", "json", "gguf"]):
        from targets import TARGETS
    target = TARGETS[name]
    target(b"")  # what is loaded once is not the first input's
    arguments = [
        sys.argv[0],
        f"-runs={runs}",
        f"-seed={seed}",
        f"-max_len={MAX_BYTES}",
        f"-timeout={HANG_S}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={OUT / name}/",
        "-print_final_stats=1",
        str(OUT / name / "found"),
        str(CORPUS / name),
    ]
    atheris.Setup(arguments, target, enable_python_coverage=True)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
