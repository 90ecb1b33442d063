#!/usr/bin/env python3
"""Makes `.venv` and installs this project into it, from nothing but Python 3.11. `make` runs it before everything.

Versions come from constraints.txt alone, so two installs are the same. Without a GPU it takes the CPU build of
torch. A second run with nothing changed does nothing. Uses the standard library only.

Environment: FLOVER_TORCH_INDEX names the package index that torch comes from (default: what pip is configured to use,
and without a GPU, where that has no CPU build, PyTorch's own CPU index).
"""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
sys.dont_write_bytecode = True

from flover_backend.libpython import LibpythonError, find_libpython, is_distribution_python  # noqa: E402

VENV = REPOSITORY / ".venv"
STAMP = VENV / "flover-setup.json"
LOCK = REPOSITORY / "constraints.txt"
PYTHON_SERIES = (3, 11)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
AFTER_APT = "--after-apt"
NO_PACKAGE = "Is the package index reachable? Try: {pip} download --no-deps -d /tmp {package}"


def main() -> None:
    """Bring `.venv` up to date, or exit with 1 and one line that says what to do."""
    use_locked_python()
    wanted = fingerprint()
    present = read_stamp()
    if present == wanted and has_libpython():
        return
    start = time.monotonic()
    provide_system_packages()
    make_venv(fresh=present["venv"] != wanted["venv"] if present else not pip_works())
    install(torch_source=os.environ.get("FLOVER_TORCH_INDEX", ""))
    STAMP.write_text(json.dumps(wanted, indent=1) + "\n")
    say(f"ready: {VENV} ({time.monotonic() - start:.0f} s)")


def use_locked_python() -> None:
    """Go on in python3.11 when started by another release: the lock and Triton's stub are chosen for it."""
    if sys.version_info[:2] == PYTHON_SERIES:
        return
    name = "python{}.{}".format(*PYTHON_SERIES)
    other = shutil.which(name)
    if other is None:
        fail(f"this is Python {sys.version.split()[0]}, and no {name} is on PATH. Install Python 3.11 and run again")
    os.execv(other, [other, *sys.argv])


def fingerprint() -> dict[str, str]:
    """What the result depends on. `venv`: start from an empty environment when it changes; `packages`: install."""
    index = os.environ.get("FLOVER_TORCH_INDEX", "")
    inputs = [LOCK, REPOSITORY / "pyproject.toml", Path(__file__)]
    return {
        "venv": f"{sys._base_executable} {sys.hexversion:x} in {REPOSITORY}, torch {index or torch_build()}",
        "packages": hashlib.sha256(b"\0".join(path.read_bytes() for path in inputs)).hexdigest(),
    }


def read_stamp() -> dict[str, str] | None:
    """The fingerprint of the last complete run, None if there was none."""
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return None


def torch_build() -> str:
    """`default` with an NVIDIA GPU, `cpu` without."""
    listing = shutil.which("nvidia-smi")
    found = bool(listing) and succeeds([listing, "-L"])
    return "default" if found or glob.glob("/dev/nvidia[0-9]*") else "cpu"


def has_libpython() -> bool:
    """True when Triton's stub will find the library of this interpreter."""
    try:
        return bool(find_libpython())
    except LibpythonError:
        return False


def provide_system_packages() -> None:
    """Make sure of venv with pip, and of libpython: apt-get for the distribution's Python as root, else advice."""
    missing = []
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        missing.append("python{}.{}-venv".format(*PYTHON_SERIES))
    if not has_libpython():
        missing.append("libpython{}.{}".format(*PYTHON_SERIES))
    if not missing:
        return
    apt = shutil.which("apt-get")
    if not is_distribution_python() or apt is None:
        fail(explain_missing(missing))
    if os.geteuid() != 0 or AFTER_APT in sys.argv:
        fail(f"this Python lacks {' and '.join(missing)}. Run: sudo apt-get install {' '.join(missing)}")
    run("reading Debian's package lists", [apt, "update", "-qq"], "Check the package sources in /etc/apt")
    extra = [] if shutil.which("curl") else ["curl"]  # a test runs the client's curl example
    install = [apt, "install", "-qq", "-y", "--no-install-recommends", *extra, *missing]
    run(f"installing {' and '.join([*extra, *missing])}", install, f"Run it by hand: {shlex.join(install)}")
    os.execv(sys.executable, [sys.executable, __file__, AFTER_APT])  # apt may have upgraded the interpreter itself


def explain_missing(missing: list[str]) -> str:
    """What to do when a Python from elsewhere lacks something."""
    try:
        find_libpython()
    except LibpythonError as error:
        return str(error)
    return f"{sys.executable} lacks {' and '.join(missing)}: install a complete Python 3.11"


def pip_works() -> bool:
    """True when `.venv` holds a usable pip."""
    python = VENV / "bin" / "python"
    return python.exists() and succeeds([str(python), "-m", "pip", "--version"])


def make_venv(*, fresh: bool) -> None:
    """Create `.venv`; `fresh` empties one that is broken or belongs to another Python, place or torch build."""
    STAMP.unlink(missing_ok=True)
    if pip_works() and not fresh:
        return
    command = [sys._base_executable, "-m", "venv", "--clear", str(VENV)]
    run("making .venv", command, f"Remove {VENV} and run again; a full disk shows in df {REPOSITORY}")


def install(torch_source: str) -> None:
    """Install the whole lock without resolving, then torch from where it belongs, then this project, editable."""
    pins = read_pins()
    others = [pin for name, pin in pins.items() if name != "torch"]
    pip("installing packages (some minutes the first time)", ["--no-deps", *others], others[0])
    install_torch(pins["torch"], torch_source)
    editable = ["--no-deps", "--no-build-isolation", "-e", str(REPOSITORY)]
    pip("installing this project", editable, pins["setuptools"])
    run("checking", [*pip_command(), "check"], f"constraints.txt contradicts itself: see above; rm -r {VENV} helps")


def read_pins() -> dict[str, str]:
    """`name==version` lines of the lock by name."""
    lines = (line.split("#")[0].strip() for line in LOCK.read_text().splitlines())
    return {line.split("==")[0]: line for line in lines if line}


def install_torch(pin: str, index: str) -> None:
    """`index`, when named, is where torch comes from. Without a GPU the build must be a CPU one.

    A CPU build's version ends in `+cpu`, so asking for that suffix never downloads gigabytes of CUDA: the index
    that has no such build says so at once, and PyTorch's CPU index is asked next.
    """
    if index:
        pip(f"installing torch from {index}", ["-c", str(LOCK), "--index-url", index, pin], pin)
    elif torch_build() == "default":
        pip("installing torch with CUDA", ["-c", str(LOCK), pin], pin)
    elif not try_pip("installing the CPU build of torch", [f"{pin}+cpu"]):
        pip(f"installing torch from {CPU_INDEX}", ["--index-url", CPU_INDEX, f"{pin}+cpu"], f"{pin}+cpu")


def pip_command() -> list[str]:
    """pip of `.venv`, never asking anything."""
    return [str(VENV / "bin" / "python"), "-m", "pip", "--no-input", "--disable-pip-version-check"]


def install_command(arguments: list[str]) -> list[str]:
    """`pip install`, with its progress shown only to a person."""
    quiet = [] if sys.stdout.isatty() else ["-q", "-q"]
    return [*pip_command(), "install", *quiet, *arguments]


def pip(what: str, arguments: list[str], package: str) -> None:
    """Install, or exit saying how to find out why not."""
    advice = NO_PACKAGE.format(pip=VENV / "bin" / "pip", package=package)
    run(what, install_command(arguments), f"{advice}. FLOVER_TORCH_INDEX names another index for torch")


def try_pip(what: str, arguments: list[str]) -> bool:
    """Install; False when no index that pip is configured with has it."""
    say(what)
    return succeeds(install_command(arguments))


def succeeds(command: list[str]) -> bool:
    """Run a command for its status alone."""
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def run(what: str, command: list[str], advice: str) -> None:
    """Run a step, or exit naming it, its status and what to do."""
    say(what)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        status = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        status = error.errno or 1
    if status:
        fail(f"{what} ended with {status} ({shlex.join(command)[:200]}). {advice}")


def say(what: str) -> None:
    """One line of progress."""
    print(f"set-up: {what}", flush=True)


def fail(text: str) -> None:
    """End with one line."""
    raise SystemExit(f"set-up failed: {text}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("set-up interrupted; run it again to go on") from None
