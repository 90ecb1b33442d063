"""The private directory where fronts, engines and local tools of one user meet: where it is, and that it is private.

Knows whose processes are whose by /proc. What lies in it is engine_files.py's business.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from flover_backend.errors import ConfigError


def process_start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks after boot (/proc/PID/stat, field 22); None when there is none."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # NOTE: field 2, the command's name, may hold blanks and brackets; the fields after its last ')' do not.
    return int(content.rpartition(")")[2].split()[19])


def process_user(pid: int) -> int:
    """Effective user id of a process. Raises OSError when there is none."""
    return os.stat(f"/proc/{pid}").st_uid


def candidate_directories() -> list[Path]:
    """Where engines of this user may have their files, preferred first."""
    candidates = [Path(tempfile.gettempdir()) / f"flover-{os.geteuid()}"]
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    if xdg and os.path.isabs(xdg) and os.access(xdg, os.W_OK | os.X_OK) and os.stat(xdg).st_uid == os.geteuid():
        candidates.insert(0, Path(xdg) / "flover")
    return candidates


def directories_of(pid: int) -> list[Path]:
    """Where the engines of a process have their files, whoever runs it and whatever its environment says.

    As far as this user may look: the environment of another user's process is read by root alone. What is not private
    to that process's user is left out. Raises OSError when there is no such process.
    """
    user, environment = process_user(pid), _environment_of(pid)
    folders = [environment.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")] + ["/tmp", "/var/tmp", "/usr/tmp"]
    theirs = [Path(folder) / f"flover-{user}" for folder in folders if os.path.isabs(folder)]
    if os.path.isabs(environment.get("XDG_RUNTIME_DIR", "")):
        theirs.append(Path(environment["XDG_RUNTIME_DIR"]) / "flover")
    return [folder for folder in dict.fromkeys([*candidate_directories(), *theirs]) if _is_private_to(user, folder)]


def _is_private_to(user: int, directory: Path) -> bool:
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o077


def _environment_of(pid: int) -> dict[str, str]:
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except PermissionError:
        return {}
    pairs = (entry.partition("=") for entry in os.fsdecode(content).split("\0"))
    return {name: value for name, _, value in pairs}


def check_private(directory: Path) -> None:
    """Raise `ConfigError` unless `directory` is a directory of this user that nobody else can enter."""
    status = os.lstat(directory)
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"runtime directory {directory} is not a directory; remove it")
    if status.st_uid != os.geteuid():
        raise ConfigError(
            f"runtime directory {directory} belongs to user id {status.st_uid}, not {os.geteuid()}; "
            "remove it, or set XDG_RUNTIME_DIR to a directory of this user"
        )
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(f"runtime directory {directory} has mode {mode:o}; allowed is 700: chmod 700 {directory}")


def runtime_directory() -> Path:
    """The preferred directory, made with mode 0700 if missing. Raises `ConfigError` when it is not private."""
    directory = candidate_directories()[0]
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    check_private(directory)
    return directory
