"""The machine beside its Triton server: kernel, limits, cores, ports, the runtime directory, what dead servers left.

`look` reads, the rest judges, so that tests can put in what no test machine has.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flover_backend.engine_files import described_engines
from flover_backend.errors import ConfigError
from flover_backend.host.checks import MIB, Check
from flover_backend.host.facts import SHARED_MEMORY
from flover_backend.memory_limit import CGROUP
from flover_backend.runtime_dir import candidate_directories, check_private, process_start_ticks

REGION_PREFIX = "triton_python_backend_shm_region_"
NEW_REGION_S = 60.0
"""A region younger than this may be one whose stub is just being started."""
NAMED = 3
"""So many of what is left are named for people; programs get all."""
REMOVE_REGIONS = (
    "regions of live servers have like names: unless another container shares this /dev/shm, remove these alone: "
    f"flover doctor --json | grep -o '/dev/shm/{REGION_PREFIX}[0-9a-f-]\\+' | sort -u | xargs rm --"
)
OWN_FILES = 256
"""Files that a tritonserver has open beside its clients' connections."""


@dataclass(frozen=True)
class MachineFacts:
    """What is so now."""

    kernel: str
    pidfd_error: str
    """Why the kernel gives no pidfd; empty when it does."""
    open_files: int
    """The soft limit that a server started from here has."""
    cores: float
    """Of this process's affinity and its container's quota."""
    taken_ports: tuple[str, ...]
    """`8000 (http): reason`."""
    runtime_dir: str
    runtime_dir_error: str
    left_regions: tuple[str, ...]
    """Names in /dev/shm that no process has on its command line."""
    left_bytes: int
    left_engines: tuple[str, ...]
    """Files of engines in the runtime directory whose server is gone."""


def look(host: str, ports: tuple[int, ...]) -> MachineFacts:
    """`ports`: HTTP, gRPC, metrics; 0 is not tried."""
    regions = left_regions()
    directory = candidate_directories()[0]
    return MachineFacts(
        kernel=os.uname().release,
        pidfd_error=_pidfd_error(),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        cores=usable_cores(),
        taken_ports=tuple(_taken(host, ports)),
        runtime_dir=str(directory),
        runtime_dir_error=_runtime_dir_error(directory),
        left_regions=tuple(path.name for path in regions),
        left_bytes=sum(_allocated(path) for path in regions),
        left_engines=tuple(_left_engines()),
    )


def check_machine(facts: MachineFacts, *, fronts: int, clients: int, live: bool) -> list[Check]:
    """`fronts`: of all models; `clients`: connections to be ready for; `live`: a server runs already, on its ports."""
    return [
        _kernel(facts),
        _cores(facts, fronts),
        _open_files(facts, clients),
        *([] if live else [_ports(facts)]),
        _runtime(facts),
        *_leftovers(facts),
    ]


def _kernel(facts: MachineFacts) -> Check:
    if facts.pidfd_error:
        text = f"Linux {facts.kernel} gives no pidfd: {facts.pidfd_error}; engines see the end of a server by it"
        return Check("fail", "kernel", text, "take Linux 5.3 or later, and a seccomp profile that allows pidfd_open")
    return Check("ok", "kernel", f"Linux {facts.kernel}, pidfd works")


def _cores(facts: MachineFacts, fronts: int) -> Check:
    text = f"{facts.cores:g} to use, {fronts} front{'s' * (fronts != 1)} and the engine"
    if fronts > max(1.0, facts.cores):
        return Check("warn", "cores", text, "lower the count of instance_group, or give more cores")
    return Check("ok", "cores", text)


def _open_files(facts: MachineFacts, clients: int) -> Check:
    needed = OWN_FILES + clients
    limit = "no limit" if facts.open_files == resource.RLIM_INFINITY else f"at most {facts.open_files}"
    if facts.open_files != resource.RLIM_INFINITY and facts.open_files < needed:
        text = f"{limit}; {clients} clients with a connection each, and the server, take {needed}"
        return Check("warn", "open files", text, f"ulimit -n {max(4096, needed)} before the start, or --ulimit nofile")
    return Check("ok", "open files", f"{limit}; {needed} are enough for {clients} connections")


def _ports(facts: MachineFacts) -> Check:
    if facts.taken_ports:
        advice = "give the server others (--http-port, --grpc-port, --metrics-port), or --url if it runs already"
        return Check("warn", "ports", "; ".join(facts.taken_ports), advice)
    return Check("ok", "ports", "free")


def _runtime(facts: MachineFacts) -> Check:
    if facts.runtime_dir_error:
        text = f"{facts.runtime_dir}: {facts.runtime_dir_error}"
        return Check("fail", "runtime directory", text, "or set XDG_RUNTIME_DIR to a directory of the server's user")
    return Check("ok", "runtime directory", f"{facts.runtime_dir}, private to user id {os.geteuid()}")


def _leftovers(facts: MachineFacts) -> Iterator[Check]:
    name = "leftovers"
    if facts.left_regions:
        text = (
            f"{len(facts.left_regions)} regions of dead Python stubs in {SHARED_MEMORY}, {facts.left_bytes // MIB} MiB"
        )
        paths = tuple(str(SHARED_MEMORY / region) for region in facts.left_regions)
        yield Check("warn", name, f"{text}: {_first_of(paths)}", REMOVE_REGIONS, paths)
    if facts.left_engines:
        text = f"files of {len(facts.left_engines)} engines whose server is gone: {_first_of(facts.left_engines)}"
        yield Check("warn", name, text, "the next start of an engine removes them", facts.left_engines)
    if not facts.left_regions and not facts.left_engines:
        yield Check("ok", name, "none of dead servers")


def _first_of(paths: tuple[str, ...]) -> str:
    return " ".join(paths[:NAMED]) + f" and {len(paths) - NAMED} more" * (len(paths) > NAMED)


def usable_cores(cgroup: Path = CGROUP) -> float:
    """Cores of this process's affinity, or the share of time that its container may use, if less."""
    cores = float(len(os.sched_getaffinity(0)))
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period, *_ = " ".join((cgroup / file).read_text() for file in files).split()
        except (OSError, ValueError):
            continue
        if quota.isdigit() and int(quota) > 0:
            cores = min(cores, int(quota) / int(period))
    return cores


def left_regions(folder: Path = SHARED_MEMORY) -> list[Path]:
    """Triton's regions that no stub names on its command line any more."""
    found = sorted(folder.glob(f"{REGION_PREFIX}*")) if folder.is_dir() else []
    if not found:
        return []
    named = "".join(_command_line(process) for process in Path("/proc").glob("[0-9]*"))
    return [path for path in found if path.name not in named and _age_s(path) > NEW_REGION_S]


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _allocated(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def _pidfd_error() -> str:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _taken(host: str, ports: tuple[int, ...]) -> Iterator[str]:
    for service, port in zip(("HTTP", "gRPC", "metrics"), ports, strict=True):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                holder.bind((host, port))
            except OSError as error:
                yield f"{host} port {port} ({service}): {error.strerror or error}"


def _runtime_dir_error(directory: Path) -> str:
    if not directory.exists():
        parent = directory.parent
        return "" if os.access(parent, os.W_OK | os.X_OK) else f"it cannot be made: no write access to {parent}"
    try:
        check_private(directory)
    except ConfigError as error:
        return str(error)
    return "" if os.access(directory, os.W_OK | os.X_OK) else "no write access to it"


def _left_engines() -> Iterator[str]:
    for files, description in described_engines():
        if process_start_ticks(description.server_pid) != description.server_start:
            yield str(files.description_path)
