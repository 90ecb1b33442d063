"""A container as deploy/kubernetes asks for it, made of namespaces in place of a container runtime.

Its processes have numbers of their own (the server is 1), the user 1000, no capabilities and no way to any, and a file
system that is read-only but for /dev/shm and /tmp. Network and kernel are the host's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from live_server import free_ports

ENTER = """set -e
root=$1 shown=$2
shift 2
mount --make-rprivate /
mkdir -p "$root"
mount --rbind / "$root"
cd "$root"
awk '{print $5}' /proc/self/mountinfo | grep "^$root" | while read -r place; do
  mount -o remount,bind,ro "$place" 2>/dev/null || true
done
mount -t tmpfs -o mode=1777,size=1g tmpfs ./tmp
mount -t tmpfs -o mode=1777,size=1g tmpfs ./dev/shm
mount -t proc proc ./proc
for folder in $shown; do
  mkdir -p ".$folder"
  mount --bind "$folder" ".$folder"
  mount -o remount,bind,ro ".$folder"
done
mkdir ./tmp/old
pivot_root . ./tmp/old
umount -l /tmp/old
rmdir /tmp/old
cd /
exec unshare --user --map-user=1000 --map-group=1000 setpriv --no-new-privs "$@"
"""


def enter(root: Path, shown: list[Path]) -> list[str]:
    """What comes before a command. `root`: a free name for the new root's place; `shown`: folders that the command
    reads, which may lie in this machine's /tmp."""
    hidden = " ".join(str(folder) for folder in shown if folder.is_relative_to("/tmp"))
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "enter", str(root), hidden]


class Pod:
    """One container with one tritonserver; whoever made it ends it."""

    def __init__(self, folder: Path, shown: list[Path], command: list[str], environment: dict[str, str]) -> None:
        """`command` is the container's, which reads the folders `shown`. `folder` gets the log."""
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        self._environment = environment
        ports = [
            *("--http-address=127.0.0.1", f"--http-port={self.http_port}"),
            *("--grpc-address=127.0.0.1", f"--grpc-port={self.grpc_port}"),
            *("--metrics-address=127.0.0.1", f"--metrics-port={self.metrics_port}"),
        ]
        self.log_path = folder / "pod.log"
        with self.log_path.open("wb") as log:
            self._outer = subprocess.Popen(
                [*enter(folder / "root", shown), *command, *ports],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def grpc_url(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def first_process(self) -> int:
        """The host's number of the container's process 1."""
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        return int(children[0])

    @property
    def is_running(self) -> bool:
        return self._outer.poll() is None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def probe(self, path: str) -> bool:
        """As the kubelet judges an httpGet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as answer:
                return 200 <= answer.status < 400
        except (urllib.error.URLError, OSError):
            return False

    def start_in(self, command: list[str]) -> subprocess.Popen[str]:
        """As `kubectl exec` and a lifecycle hook do."""
        into = ["nsenter", f"--target={self.first_process}", "--mount", "--pid", "--user", "--preserve-credentials"]
        return subprocess.Popen(
            [*into, *command], env=self._environment, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
        )

    def run_in(self, *command: str) -> str:
        """What a command inside says; it must succeed."""
        started = self.start_in(list(command))
        said, _ = started.communicate(timeout=60)
        assert started.returncode == 0, said
        return said

    def terminate(self) -> None:
        """As the kubelet begins a container's end."""
        os.kill(self.first_process, signal.SIGTERM)

    def wait_ended(self, timeout_s: float) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired."""
        return self._outer.wait(timeout_s)

    def kill(self) -> None:
        """All of it; does nothing when it has ended."""
        if self.is_running:
            self._outer.kill()  # --kill-child: process 1 goes with it, and so does everything inside
            self._outer.wait()


def skip_without_namespaces(folder: Path) -> None:
    """Skips, and says why: not root, no such programs, or a kernel that does not allow it."""
    missing = [name for name in ("unshare", "setpriv", "nsenter", "pivot_root") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here")
    command = [*enter(folder / "try", []), "true"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if answer.returncode:
        pytest.skip(f"namespaces cannot be made here: {answer.stderr.strip()[-300:]}")
