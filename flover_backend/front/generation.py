"""Which load of a model a front belongs to, and whether the server has a later one, or other versions that serve.

Triton unloads a model by its name: all versions, and whatever was loaded last. So a front whose engine is gone looks
here first. Knows the files that fronts and engines leave; nothing of Triton's control.
"""

from __future__ import annotations

import enum
import time
from typing import Protocol

import msgspec

from flover_backend.channel import EngineInfo
from flover_backend.engine_files import EngineFiles, Loaded, described_engines, loads
from flover_backend.errors import EngineFailed
from flover_backend.file_lock import FileLock
from flover_backend.runtime_dir import process_start_ticks

LOCK_TIMEOUT_S = 5.0


class Standing(enum.Enum):
    """What a load of a model is to its server, when its engine is gone."""

    LAST = "no engine is behind the model any more"
    AMONG_OTHERS = "another version serves, or another load has begun"
    OVER = "the model was unloaded, or loaded anew"


class Attached(Protocol):
    """A front's EngineSupervisor, as it is used here."""

    info: EngineInfo

    @property
    def files(self) -> EngineFiles:
        """The engine's."""


class Generation:
    """The instances of one version that Triton loaded together: they met the same engine."""

    def __init__(self, client: Attached, model: str, version: str, server_pid: int) -> None:
        self._client = client
        self._model = model
        self._version = version
        self._server_pid = server_pid

    def loaded(self) -> None:
        """This front has loaded. Raises `EngineFailed` when the files stay locked."""
        self._files, self._engine_pid = self._client.files, self._client.info.pid
        self.give_back()

    def give_back(self) -> None:
        """The model was not unloaded after all. Raises as `loaded`."""
        start = process_start_ticks(self._server_pid)
        if start is None:
            return  # the server is gone, and this process with it
        lock = self._lock()
        try:
            loaded = Loaded(
                server_pid=self._server_pid,
                server_start=start,
                model_name=self._model,
                model_version=self._version,
                engine_pid=self._engine_pid,
                time=time.monotonic(),
            )
            self._files.write_loaded(loaded)
        finally:
            self._files.let_go(lock)

    def serves(self) -> None:
        """A client's request has come to this front. Raises as `loaded`."""
        lock = self._lock()
        try:
            for files, one in loads(self._server_pid):
                if files == self._files and one.engine_pid == self._engine_pid:
                    self._files.write_loaded(msgspec.structs.replace(one, has_served=True))
        finally:
            self._files.let_go(lock)

    def is_replaced(self) -> bool:
        """Another engine has taken over: of a later load of this version, to which clients' requests come."""
        known = [(files, one) for files, one in loads(self._server_pid) if one.model_name == self._model]
        mine = [one for files, one in known if files == self._files]
        return any(
            self._is_later(one, mine[0]) and one.has_served and files != self._files and _lives(files)
            for files, one in known
            if mine
        )

    def take(self) -> Standing:
        """This front's engine is gone for good. `LAST` is said to one front of a generation.

        Raises `EngineFailed` when the files stay locked.
        """
        lock = self._lock()
        try:
            known = [(files, one) for files, one in loads(self._server_pid) if one.model_name == self._model]
            mine = [one for files, one in known if files == self._files and one.engine_pid == self._engine_pid]
            if not mine or any(self._is_later(one, mine[0]) for _, one in known):
                return Standing.OVER
            if self._others([files for files, _ in known]):
                return Standing.AMONG_OTHERS
            self._files.loaded_path.unlink(missing_ok=True)
            return Standing.LAST
        finally:
            self._files.let_go(lock)

    def _is_later(self, one: Loaded, mine: Loaded) -> bool:
        return one.model_version == self._version and one.time > mine.time

    def _others(self, loaded: list[EngineFiles]) -> bool:
        """Engines of other versions, and those that load; not what an earlier load of this version still finishes."""
        for files, one in described_engines(self._server_pid):
            if one.model_name != self._model or one.engine_pid == self._client.info.pid:
                continue
            is_earlier = one.model_version == self._version and files in loaded and files != self._files
            if not is_earlier and _lives(files):
                return True
        return False

    def _lock(self) -> FileLock:
        lock = FileLock(self._files.lock_path)
        if not lock.acquire(LOCK_TIMEOUT_S):
            raise EngineFailed(f"{lock.path} was not free for {LOCK_TIMEOUT_S:.0f} s; which process holds it: lslocks")
        return lock


def _lives(files: EngineFiles) -> bool:
    connection = files.connect()
    if connection is None:
        return False
    connection.close()
    return True
