"""Ends a front that Triton has given up while it loads: 24.10 waits for its end for ever, and the load with it.

While a stub initializes, its server asks every second whether it lives: it clears a byte of the memory that they share,
which a thread of the stub sets again within 0.3 s (python_backend: `IPCControlShm::stub_health`, stub_launcher.cc,
pb_utils.h). A stub that has not answered a second later has lost, and nobody asks any more. A front concludes that it
was given up where it may have failed to answer (it did not run, or the byte stayed clear) and no question came for long
after. The byte is only read; nothing is concluded from one that does not come and go. Knows processes; no requests.
"""

from __future__ import annotations

import mmap
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from flover_backend.front.logs import Log
from flover_backend.stub_memory import arguments_of, shared_memory_regions
from flover_backend.thread_names import tell_kernel_the_name

SAMPLE_S = 0.02
ASKED, ANSWERED = 0, 1
NUM_ASKED = 2
"""So often a byte has come and gone before anything is concluded from it."""
LATE_S = 0.6
"""Without a sample, or without an answer: Triton's second may have passed."""
PATIENCE_SAMPLES = round(10 / SAMPLE_S)
"""Nobody asks any more. Samples, not seconds: while this process does not run there are none."""
HANDLE_AFTER_REGION, BYTES_BEFORE_DATA = 5, 16
"""Of a stub's arguments: where the handle of its `IPCControlShm` is. Of what a handle means: its reference count."""
TOLD = "Triton has given this instance up, since its process did not run for a second or more (a paused or very busy "
TOLD += "machine); it ends, so that the load fails and can be tried again"


class Asking:
    """What samples of the byte say, one after another."""

    def __init__(self) -> None:
        self.num_samples = 0
        self._num_asked = 0
        self._num_since = 0
        self._sampled_at = self._asked_at = float("inf")
        self._last = ANSWERED
        self._is_health = True
        self._may_be_late = False

    def see(self, value: int, now: float) -> None:
        """The next sample; `now` in seconds of one clock."""
        self._is_health &= value in (ASKED, ANSWERED)
        if value == ASKED and self._last == ANSWERED:
            self._num_asked += 1
            self._asked_at = now
            self._may_be_late = False
        has_paused = now - self._sampled_at > LATE_S
        is_unanswered = value == ASKED and now - self._asked_at > LATE_S
        self._may_be_late |= has_paused or is_unanswered
        self._num_since = 0 if value == ASKED else self._num_since + 1
        self._last, self._sampled_at = value, now
        self.num_samples += 1

    @property
    def is_known(self) -> bool:
        """The byte is what it is taken for."""
        return self._is_health and self._num_asked >= NUM_ASKED

    @property
    def is_in_doubt(self) -> bool:
        """The server may have given this stub up; its next question says that it has not."""
        return self.is_known and self._may_be_late

    @property
    def has_ended(self) -> bool:
        """It has."""
        return self.is_in_doubt and self._num_since > PATIENCE_SAMPLES


class LoadWatch:
    """A thread that samples while a front initializes. As a context manager: from there to there."""

    def __init__(self, read: Callable[[], int] | None, end: Callable[[], object], sample_s: float = SAMPLE_S) -> None:
        """`read`: the byte; None where there is none. `end` is called, once, when Triton has given this stub up."""
        self._read = read
        self._end = end
        self._sample_s = sample_s
        self._asking = Asking()
        self._news = threading.Condition()
        self._is_over = read is None
        self._thread = threading.Thread(target=self._watch, name="load-watch", daemon=True)

    @classmethod
    def of_this_stub(cls, log: Log) -> LoadWatch:
        """Ends the process. `log` writes to standard error: Triton's logger needs the memory that was given up."""
        return cls(health_of(arguments_of()), lambda: end_saying(log, TOLD))

    def __enter__(self) -> LoadWatch:
        if not self._is_over:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._news:
            self._is_over = True
            self._news.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def settle(self) -> None:
        """Return when there is no doubt that the server waits (the usual case: at once), or where nothing is known.

        It takes a new sample to say so: a process that has paused may come here before its sampler.
        """
        with self._news:
            before = self._asking.num_samples
            self._news.wait_for(
                lambda: self._is_over or (self._asking.num_samples > before and not self._asking.is_in_doubt)
            )

    def _watch(self) -> None:
        assert self._read is not None
        tell_kernel_the_name()
        with self._news:
            try:
                while not self._is_over:
                    self._asking.see(self._read(), time.monotonic())
                    self._news.notify_all()
                    if self._asking.has_ended:
                        self._is_over = True
                        self._end()
                    self._news.wait(self._sample_s)
            finally:
                self._is_over = True
                self._news.notify_all()


def end_saying(log: Log, text: str) -> None:
    """End this process at once; `text` is left out where standard error takes none."""
    try:
        poll = select.poll()
        poll.register(2, select.POLLOUT)
        if poll.poll(0):
            log.error(text)
    finally:
        os._exit(1)


def health_of(arguments: Sequence[str], process: int | str = "self") -> Callable[[], int] | None:
    """Reads the byte of the stub with this command line; None for one that has none, or another command line."""
    regions = shared_memory_regions(arguments, process)
    try:
        handle = int(arguments[arguments.index(regions[0].name) + HANDLE_AFTER_REGION])
        with regions[0].open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except (LookupError, ValueError, OSError):
        return None
    place = handle + BYTES_BEFORE_DATA
    return (lambda: memory[place]) if 0 <= place < len(memory) else None
