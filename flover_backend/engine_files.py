"""The files of an engine in its user's runtime directory: their names, their content, its socket.

Knows no messages and starts no process. Every file of an engine shares one stem:

    <stem>.sock   the engine's unix socket        bound by the front that starts the engine
    <stem>.lock   flock: who starts or ends it    held for moments only, never while a model loads
    <stem>.json   `Description`, for tools        written by the engine
    <stem>.again  `Restarts`, what they were      written by the front that starts a dead engine again
    <stem>.load   `Loaded`, for whose model       written by a front that has loaded, where it may unload the model
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from flover_backend.file_lock import FileLock
from flover_backend.runtime_dir import candidate_directories, process_start_ticks

BACKLOG = 128


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool may know of an engine before it connects."""

    server_pid: int
    server_start: int
    """Clock ticks after boot, from /proc: tells a process from a later one with the same pid."""
    model_name: str
    model_version: str
    engine_pid: int
    drain_timeout_s: float
    """The configuration's: what a drain that names no time takes."""


class Restarts(msgspec.Struct, frozen=True, kw_only=True):
    """When the engines of one key were started again after a death. Outlives them, not the last of their fronts."""

    server_pid: int
    server_start: int
    times: list[float]
    """`time.monotonic()`, oldest first."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """That a server has loaded a model. Goes when the model is unloaded for want of an engine, or with the engine."""

    server_pid: int
    server_start: int
    model_name: str
    model_version: str
    engine_pid: int
    """Of the engine that the fronts of this load met first."""
    time: float
    """`time.monotonic()`"""
    has_served: bool = False
    """A client's request has come to this load, so that the server has moved over to it."""


class EngineKey(msgspec.Struct, frozen=True, kw_only=True):
    """Fronts with equal keys share an engine."""

    server_pid: int
    server_start: int
    model_name: str
    model_version: str
    digest: str
    """Of the effective configuration and the weight files (`front.rendezvous.configuration_digest`)."""

    @property
    def stem(self) -> str:
        """File name without ending; short, whatever the model is called."""
        return f"{self.server_pid}-{hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:20]}"


@dataclass(frozen=True)
class EngineFiles:
    """The files of one engine."""

    directory: Path
    stem: str

    @property
    def socket_path(self) -> Path:
        """The engine's socket."""
        return self.directory / f"{self.stem}.sock"

    @property
    def lock_path(self) -> Path:
        """The lock file."""
        return self.directory / f"{self.stem}.lock"

    @property
    def description_path(self) -> Path:
        """The `Description`."""
        return self.directory / f"{self.stem}.json"

    @property
    def restarts_path(self) -> Path:
        """The `Restarts`."""
        return self.directory / f"{self.stem}.again"

    @property
    def loaded_path(self) -> Path:
        """The `Loaded`."""
        return self.directory / f"{self.stem}.load"

    def write_loaded(self, loaded: Loaded) -> None:
        """All or nothing. The caller holds the lock."""
        _replace(self.loaded_path, loaded)

    def read_restarts(self) -> list[float]:
        """The times in `Restarts`; none when there is no such file."""
        try:
            return msgspec.json.decode(self.restarts_path.read_bytes(), type=Restarts).times
        except (FileNotFoundError, msgspec.DecodeError):
            return []

    def write_restarts(self, restarts: Restarts) -> None:
        """All or nothing. The caller holds the lock."""
        _replace(self.restarts_path, restarts)

    def listen(self) -> socket.socket:
        """A new listening socket in place of whatever was there. The caller holds the lock."""
        self.socket_path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        with self._address() as address:
            listener.bind(address)
        listener.listen(BACKLOG)
        return listener

    def connect(self) -> socket.socket | None:
        """A connection to the engine; None when there is no engine."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            with self._address() as address:
                connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        return connection

    def write_description(self, description: Description) -> None:
        """Publish, all or nothing."""
        _replace(self.description_path, description)

    def remove(self, lock: FileLock, *, for_good: bool = True) -> None:
        """Remove everything; `lock`, which is held, last. Not `for_good`: an engine with these files may follow."""
        paths = [self.socket_path, self.description_path, _partial(self.description_path)]
        if for_good:
            paths += [self.restarts_path, _partial(self.restarts_path), self.loaded_path, _partial(self.loaded_path)]
        for path in paths:
            path.unlink(missing_ok=True)
        lock.remove()

    def let_go(self, lock: FileLock) -> None:
        """Release `lock`; its file goes when it is the last one."""
        if self._are_there():
            lock.release()
        else:
            lock.remove()

    def _are_there(self) -> bool:
        paths = (self.socket_path, self.description_path, self.restarts_path, self.loaded_path)
        return any(path.exists() for path in paths)

    def remove_if_dead(self, *, for_good: bool = True) -> None:
        """Remove what an engine left that was killed: only when its socket refuses connections."""
        lock = FileLock(self.lock_path)
        if not self._are_there() or not lock.acquire(timeout_s=1.0):
            return
        connection = self.connect()
        if connection is None:
            self.remove(lock, for_good=for_good)
        else:
            connection.close()
            lock.release()

    @contextlib.contextmanager
    def _address(self) -> Iterator[str]:
        # NOTE: a unix socket's address holds 107 bytes; through the directory's descriptor any path is short enough.
        fd = os.open(self.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{fd}/{self.socket_path.name}"
        finally:
            os.close(fd)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _replace(path: Path, content: msgspec.Struct) -> None:
    partial = _partial(path)
    partial.write_bytes(msgspec.json.encode(content))
    partial.rename(path)


def remove_dead_engines() -> None:
    """Remove the files of engines that were killed together with their fronts and their server."""
    left = [(files, one.server_pid, one.server_start) for files, one in _published(Description, "*.json")]
    left += [(files, one.server_pid, one.server_start) for files, one in _published(Restarts, "*.again")]
    left += [(files, one.server_pid, one.server_start) for files, one in _published(Loaded, "*.load")]
    for files, server_pid, server_start in left:
        if process_start_ticks(server_pid) != server_start:
            files.remove_if_dead()


def described_engines(
    server_pid: int | None = None, directories: Sequence[Path] | None = None
) -> list[tuple[EngineFiles, Description]]:
    """The engines that have published themselves, of one tritonserver or of all, in order of file name.

    `directories`: where to look; by default where engines of this user are.
    """
    published = _published(Description, "*.json", directories)
    return [(files, one) for files, one in published if server_pid is None or one.server_pid == server_pid]


def counted_restarts(directories: Sequence[Path] | None = None) -> list[tuple[EngineFiles, Restarts]]:
    """What there is of `Restarts`; `directories` as in `described_engines`."""
    return _published(Restarts, "*.again", directories)


def loads(server_pid: int) -> list[tuple[EngineFiles, Loaded]]:
    """What one tritonserver has loaded."""
    return [(files, one) for files, one in _published(Loaded, "*.load") if one.server_pid == server_pid]


Content = TypeVar("Content", Description, Restarts, Loaded)


def _published(
    kind: type[Content], pattern: str, directories: Sequence[Path] | None = None
) -> list[tuple[EngineFiles, Content]]:
    found = []
    for directory in candidate_directories() if directories is None else directories:
        for path in sorted(directory.glob(pattern)) if directory.is_dir() else []:
            try:
                content = msgspec.json.decode(path.read_bytes(), type=kind)
            except (FileNotFoundError, msgspec.DecodeError):
                continue
            found.append((EngineFiles(directory, path.stem), content))
    return found
