"""The IO thread of the engine process: it alone touches sockets, from the first moment, also while the engine loads.

Accepts peers, cuts their bytes into messages for the main thread's inbox, sends what the main thread posts without
ever blocking on a slow peer, and notices when nobody is left to serve: no front, or no tritonserver. Knows frames,
roles and numbers of connections; does not know what a request is.

Who may touch what:
    sockets, selector, peers, buffers     the IO thread
    inbox                                 filled by the IO thread, emptied by the main thread
    outbox, greeting                      filled by the main thread, emptied by the IO thread
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from flover_backend.channel import PROTOCOL_VERSION, Failed, FrameReader, Hello, ToEngine, ToFront, encode
from flover_backend.engine.peer import Attached, Detached, Event, Peer
from flover_backend.engine.pulse import Pulse
from flover_backend.engine.stuck_fronts import end_stuck_fronts, regions_of, remove_regions_of_the_dead
from flover_backend.file_lock import FileLock
from flover_backend.thread_names import tell_kernel_the_name

log = logging.getLogger(__name__)

RECEIVE_BYTES = 1 << 18
MAX_OUTGOING_BYTES = 256 << 20
"""A peer that leaves so much unread is disconnected."""
END_RETRY_S = 0.05
FLUSH_TIMEOUT_S = 5.0


class Connections:
    """All peers of the engine. The main thread makes it, starts it, then posts to it and reads its `inbox`."""

    def __init__(
        self,
        listener: socket.socket,
        server_pidfd: int,
        lock: FileLock,
        on_end: Callable[[str, int], object],
    ) -> None:
        """`on_end(why, exit code)` is called once, in the IO thread, when the last front or the server is gone.

        After the last front it is called with `lock` held, so that no front can be attaching.
        """
        self.inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._listener = listener
        self._server_pidfd = server_pidfd
        self._lock = lock
        self._on_end = on_end
        self._peers: dict[int, Peer] = {}
        self._lingering: list[socket.socket] = []
        self._regions: dict[int, list[Path]] = {}
        """Shared memory of the fronts that were ever attached, by process id: Triton leaves that of one that died."""
        self._next_number = 1
        self._greeting: bytes | None = None
        self._outbox: deque[tuple[int | None, bytes]] = deque()
        self._pulse: Pulse | None = None
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name="engine-io", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._server_pidfd, selectors.EVENT_READ, self._server_is_gone)
        self._selector.register(self._wake_fd, selectors.EVENT_READ, self._drain_wake_fd)
        self._thread.start()

    def post(self, number: int, message: ToFront) -> None:
        """Queue a message for one connection; nothing happens if it is gone."""
        self._put(number, message)

    def broadcast(self, message: ToFront) -> None:
        """Queue a message for every front."""
        self._put(None, message)

    def greet(self, message: ToFront | None) -> None:
        """Queue a message for every front, and let it be the first thing that later peers are told."""
        self._greeting = None if message is None else encode(message)
        if message is not None:
            self._put(None, message)

    def watch(self, pulse: Pulse) -> None:
        """From now on every front is told how the main thread does."""
        self._pulse = pulse
        self._wake()

    def close(self, last_word: Failed) -> None:
        """Tell every front `last_word`, those that are just attaching too, and end the IO thread. Bounded.

        The lock is held afterwards (unless another process kept it for `FLUSH_TIMEOUT_S`): nobody else can attach.
        """
        self._lock.acquire(FLUSH_TIMEOUT_S)
        self.greet(last_word)
        self._closing.set()
        self._wake()
        self._thread.join(FLUSH_TIMEOUT_S)

    def _put(self, number: int | None, message: ToFront) -> None:
        self._outbox.append((number, encode(message)))
        self._wake()

    def _wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)

    def _run(self) -> None:
        tell_kernel_the_name()
        try:
            while not self._closing.is_set():
                self._turn()
            self._accept(selectors.EVENT_READ)
            self._receive_all()
            self._distribute()
            self._flush_all()
        except BaseException:
            log.exception("the IO thread failed")
            self._on_end("the IO thread failed", 1)

    def _turn(self) -> None:
        timeout: float | None = END_RETRY_S
        if self._has_fronts():
            timeout = None if self._pulse is None else self._pulse.seconds_to_next(time.monotonic())
        for key, events in self._selector.select(timeout):
            key.data(events) if callable(key.data) else self._serve(key.data, events)
        self._distribute()
        heartbeat = self._pulse.beat(time.monotonic()) if self._pulse is not None else None
        if heartbeat is not None:
            self.broadcast(heartbeat)
            self._distribute()
        if not self._closing.is_set() and not self._has_fronts():
            self._end_if_deserted()

    def _has_fronts(self) -> bool:
        return any(peer.is_front for peer in self._peers.values())

    def _end_if_deserted(self) -> None:
        if not self._lock.try_acquire():
            return  # A front is attaching; look again soon.
        self._accept(selectors.EVENT_READ)
        self._receive_all()
        if self._has_fronts():
            self._lock.release()
        elif select.select([self._server_pidfd], [], [], 0)[0]:  # the fronts of a killed server may be gone before it
            self._server_is_gone(selectors.EVENT_READ)
        else:
            remove_regions_of_the_dead(self._regions)
            self._on_end("the last instance is gone", 0)

    def _server_is_gone(self, _events: int) -> None:
        fronts = [peer.hello.pid for peer in self._peers.values() if peer.hello and peer.is_front]
        end_stuck_fronts(fronts, known=[region for regions in self._regions.values() for region in regions])
        self._on_end("the server is gone", 0)

    def _drain_wake_fd(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    def _accept(self, _events: int) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # NOTE: BlockingIOError ends the backlog; others (too many files) must not end the engine.
                return
            connection.setblocking(False)
            peer = Peer(self._next_number, connection, FrameReader(engine_side=True))
            self._next_number += 1
            self._peers[peer.number] = peer
            self._selector.register(connection, selectors.EVENT_READ, peer)

    def _serve(self, peer: Peer, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send(peer)
        if events & selectors.EVENT_READ and peer.number in self._peers:
            self._receive(peer)

    def _receive_all(self) -> None:
        for peer in list(self._peers.values()):
            self._receive(peer)

    def _receive(self, peer: Peer) -> None:
        try:
            data = peer.connection.recv(RECEIVE_BYTES)
            messages = peer.reader.feed(data)
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            self._drop(peer, str(error))
            return
        for message in messages:
            if not self._receive_message(peer, message):  # type: ignore[arg-type]
                return
        if not data:
            self._drop(peer, None)

    def _receive_message(self, peer: Peer, message: ToEngine) -> bool:
        if isinstance(message, Hello) != (peer.hello is None):
            self._drop(peer, f"{type(message).__name__} as {'first' if peer.hello is None else 'later'} message")
            return False
        if isinstance(message, Hello):
            return self._receive_hello(peer, message)
        self.inbox.put((peer.number, message))
        return True

    def _receive_hello(self, peer: Peer, hello: Hello) -> bool:
        if hello.protocol_version != PROTOCOL_VERSION or hello.role not in ("front", "observer"):
            self._drop(peer, f"{hello}; allowed are role front or observer and protocol version {PROTOCOL_VERSION}")
            return False
        peer.hello = hello
        if peer.is_front:
            self._regions[hello.pid] = regions_of(hello.pid)
        self._close_lingering()
        # NOTE: before the greeting, whose sending may show that the peer is gone: Detached comes after Attached.
        self.inbox.put((peer.number, Attached(hello)))
        if self._greeting is not None:
            self._queue(peer, self._greeting)
        return True

    def _distribute(self) -> None:
        while self._outbox:
            number, frame = self._outbox.popleft()
            if number is None:
                for peer in [peer for peer in self._peers.values() if peer.is_front]:
                    self._queue(peer, frame)
            elif number in self._peers:
                self._queue(self._peers[number], frame)

    def _queue(self, peer: Peer, frame: bytes) -> None:
        was_empty = not peer.outgoing
        peer.outgoing.append(memoryview(frame))
        peer.outgoing_bytes += len(frame)
        if peer.outgoing_bytes > MAX_OUTGOING_BYTES:
            self._drop(peer, f"{peer.outgoing_bytes} bytes wait for it to read; allowed are {MAX_OUTGOING_BYTES}")
        elif was_empty:
            self._send(peer)

    def _send(self, peer: Peer) -> None:
        try:
            while peer.outgoing:
                sent = peer.connection.send(peer.outgoing[0])
                peer.outgoing_bytes -= sent
                rest = peer.outgoing.popleft()[sent:]
                if rest:
                    peer.outgoing.appendleft(rest)
        except BlockingIOError:
            pass
        except OSError as error:
            self._drop(peer, str(error))
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.outgoing else 0)
        if self._selector.get_key(peer.connection).events != wanted:
            self._selector.modify(peer.connection, wanted, peer)

    def _drop(self, peer: Peer, why: str | None) -> None:
        if self._peers.pop(peer.number, None) is None:
            return
        self._selector.unregister(peer.connection)
        if why is not None:
            log.warning("disconnected %s: %s", peer.hello.name if peer.hello else "an unknown peer", why)
        if peer.hello is not None:
            self.inbox.put((peer.number, Detached()))
        self._lingering.append(peer.connection)
        if why is not None or self._has_fronts():
            self._close_lingering()

    def _close_lingering(self) -> None:
        # NOTE: the last front's connection stays open until the process ends: its EOF tells the front that it has.
        while self._lingering:
            self._lingering.pop().close()

    def _flush_all(self) -> None:
        for peer in list(self._peers.values()):
            peer.connection.settimeout(FLUSH_TIMEOUT_S / max(1, len(self._peers)))
            with contextlib.suppress(OSError):
                for piece in peer.outgoing:
                    peer.connection.sendall(piece)
