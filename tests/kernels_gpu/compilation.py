"""Compiles a kernel for the H200's architecture without a GPU, in a process of its own, where Triton compiles for real.

One such process compiles all that the tests of this one want: importing torch and Triton takes it longer than a kernel.

resources = compile_kernel("flover_backend.kernels.gpu.x", "_kernel", {"x": "*fp16", "n": "i32"}, {"BLOCK": 64})
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Resources:
    """What one program of a compiled kernel uses."""

    registers: int
    """Of a thread"""
    spilled_bytes: int
    """Stores to local memory, of a thread"""
    shared_bytes: int


def compile_kernel(
    module: str, kernel: str, signature: dict[str, str], constants: dict[str, Any], **options: int
) -> Resources:
    """Arguments of the kernel in `signature` or `constants`; options as num_warps, num_stages.

    A signature type with ":16" at its end is that type, divisible by 16. Raises `CompilationFailed` with the compiler's
    message.
    """
    compiler = _compiler()
    assert compiler.stdin and compiler.stdout
    compiler.stdin.write(json.dumps([module, kernel, signature, constants, options]) + "\n")
    compiler.stdin.flush()
    answer = compiler.stdout.readline()
    if not answer:
        raise CompilationFailed(f"the compiling process ended with {compiler.wait()}")
    resources, error = json.loads(answer)
    if error:
        raise CompilationFailed(error)
    return Resources(**resources)


class CompilationFailed(Exception):
    """Why, as the compiler or its process says it."""


@functools.cache
def _compiler() -> subprocess.Popen[str]:
    """Ends when its standard input is closed, at the latest with this process."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {
        "PYTHONPATH": os.pathsep.join(sys.path)
    }
    process = subprocess.Popen(
        [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(process.communicate)
    return process


def _serve() -> None:
    """A line a kernel: [resources, None] or [None, error]; whatever else is printed goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        try:
            answer = [asdict(_compile(*json.loads(line))), None]
        except Exception:
            answer = [None, traceback.format_exc()]
        print(json.dumps(answer), file=answers, flush=True)


def _compile(
    module: str, name: str, signature: dict[str, str], constants: dict[str, Any], options: dict[str, int]
) -> Resources:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(module), name)
    aligned = {
        (kernel.arg_names.index(arg),): [["tt.divisibility", 16]] for arg, t in signature.items() if t.endswith(":16")
    }
    types = {arg: signature.get(arg, "constexpr").removesuffix(":16") for arg in kernel.arg_names}
    source = ASTSource(
        fn=kernel, signature=types, constexprs={k: _dtype(v) for k, v in constants.items()}, attrs=aligned
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return _resources(compiled.asm["ptx"], compiled.metadata.shared)


def _dtype(value: Any) -> Any:
    import triton.language as tl

    return getattr(tl, value.removeprefix("tl.")) if isinstance(value, str) and value.startswith("tl.") else value


def _resources(ptx: str, shared_bytes: int) -> Resources:
    import triton

    architecture = re.search(r"\.target (sm_\w+)", ptx)
    assert architecture
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        ptxas = [triton.knobs.nvidia.ptxas.path, "-v", f"-arch={architecture[1]}", str(source), "-o", os.devnull]
        report = subprocess.run(ptxas, check=True, capture_output=True, text=True).stderr
    registers, spilled = re.search(r"Used (\d+) registers", report), re.search(r"(\d+) bytes spill stores", report)
    assert registers and spilled, report
    return Resources(int(registers[1]), int(spilled[1]), shared_bytes)


if __name__ == "__main__":
    _serve()
