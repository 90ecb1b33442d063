"""A front waits for its engine to load: progress into the log, an end to the waiting, the failure's text.

Knows Loading, Ready and Failed; requests come later, in client.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from flover_backend.channel import EngineInfo, Failed, FrameReader, Loading, Ready, ToFront
from flover_backend.errors import ConfigError, EngineFailed
from flover_backend.front.rendezvous import Attachment, Log

RECEIVE_BYTES = 1 << 18
SILENCE_S = 600.0
"""A load that says nothing for so long is given up."""
LOG_INTERVAL_S = 10.0


@dataclass(frozen=True)
class LoadedEngine:
    """What the connection has said so far."""

    info: EngineInfo
    reader: FrameReader
    """May hold the beginning of a frame."""
    pending: list[ToFront]
    """Messages that came right after Ready."""


def await_ready(attachment: Attachment, log: Log) -> LoadedEngine:
    """Raises `ConfigError` or `EngineFailed` with the engine's text when the load fails."""
    reader = FrameReader(engine_side=False)
    progress = LoadProgress(log)
    attachment.connection.settimeout(LOG_INTERVAL_S)
    while True:
        messages = _receive(attachment, reader, progress)
        for position, message in enumerate(messages):
            if isinstance(message, Loading):
                progress.update(message)
            elif isinstance(message, Failed):
                raise (ConfigError if message.code == ConfigError.code else EngineFailed)(message.message)
            elif isinstance(message, Ready):
                attachment.connection.settimeout(None)
                return LoadedEngine(message.info, reader, messages[position + 1 :])


def _receive(attachment: Attachment, reader: FrameReader, progress: LoadProgress) -> list[ToFront]:
    try:
        data = attachment.connection.recv(RECEIVE_BYTES)
    except TimeoutError:
        progress.silence()
        return []
    except OSError:  # reset, by one that ended before it read what it was told
        data = b""
    if not data:
        text = f"the engine process{attachment.exit_text()} ended before it was ready"
        raise EngineFailed(f"{text}; its output is in the server's log, and engine_python says which Python runs it")
    return reader.feed(data)  # type: ignore[return-value]


class LoadProgress:
    """Log lines while the engine loads: at each new stage, and every few seconds within one."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._stage = "starting"
        self._fraction = 0.0
        self._last_news = self._last_line = time.monotonic()

    def update(self, message: Loading) -> None:
        """News from the engine."""
        self._last_news = time.monotonic()
        new_stage = message.stage != self._stage
        self._stage, self._fraction = message.stage, message.fraction
        self._line(force=new_stage)

    def silence(self) -> None:
        """Nothing came for a while. Raises `EngineFailed` when that is too long."""
        silent = time.monotonic() - self._last_news
        if silent > SILENCE_S:
            raise EngineFailed(f"the engine said nothing for {silent:.0f} s while loading (stage: {self._stage})")
        self._line(force=False)

    def _line(self, force: bool) -> None:
        now = time.monotonic()
        if force or now - self._last_line >= LOG_INTERVAL_S:
            self._last_line = now
            self._log(f"engine: {self._stage}, {self._fraction:.0%}")
