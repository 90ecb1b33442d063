"""Drains the engines of one server, all at once and for a bounded time. Knows engines and their answers, no requests.

An engine that appears meanwhile (a reload, a restart) is drained too, in what is left of the time. One that loads in
place of an engine that died is waited for: its fronts hold accepted requests for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from flover_backend.channel import Drained
from flover_backend.errors import FloverError
from flover_backend.observer import DRAIN_GRACE_S, EngineObserver, FoundEngine

POLL_S = 0.05
SILENCE_S = 10.0
"""An engine whose main thread lives says a word to whoever connects, after one iteration at most."""
CUT_TIMEOUT_S = 5.0
SUCCESSOR_S = 3.0
"""An engine that died may be started again by a front, and publishes itself within this time."""

Tell = Callable[[str], None]


class EngineDrain:
    """One engine's drain, in a thread of its own: connecting and waiting may hang with the engine."""

    def __init__(self, engine: FoundEngine, timeout_s: float, tool: str) -> None:
        """`tool`: the name that the engine's log shows."""
        description = engine.description
        self.engine = engine
        self.name = f"model {description.model_name} v{description.model_version} (engine {description.engine_pid})"
        self.drained: Drained | None = None
        self.trouble: str | None = None
        """Why nothing was drained, in a sentence."""
        self.is_gone = False
        """The engine has ended: nothing of it runs."""
        self.is_loading = False
        """It had no requests yet, and will take none."""
        self.is_told = False
        self._timeout_s = timeout_s
        self._tool = tool
        self._ends = time.monotonic() + timeout_s
        self._deadline = self._ends + DRAIN_GRACE_S
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """The engine has answered, or will not."""
        return not self._thread.is_alive() or time.monotonic() >= self._deadline

    @property
    def is_clean(self) -> bool:
        """Nothing that the engine accepted is left running."""
        return self.drained is not None or self.is_gone or self.is_loading

    def cut(self) -> None:
        """Let the engine end at once what still runs; the deadline becomes near."""
        self._deadline = min(self._deadline, time.monotonic() + CUT_TIMEOUT_S)
        threading.Thread(target=self._cut, name="cut", daemon=True).start()

    def outcome(self) -> str:
        """A line for the operator."""
        if self.drained is not None:
            return f"{self.name}: drained: {self.drained.finished} requests finished, {self.drained.ended} were ended"
        if self.is_loading:
            return f"{self.name}: still loading, no request runs; it will take none"
        if self.is_gone:
            return f"{self.name}: the engine has ended, nothing of it runs: {self.trouble}"
        return f"{self.name}: cannot drain: {self.trouble or 'it does not answer: does it hang?'}"

    def _run(self) -> None:
        try:
            with EngineObserver.open(self.engine, self._tool) as observer:
                observer.begin_drain(self._timeout_s)
                if not observer.is_loaded(SILENCE_S):
                    if not self.engine.files.read_restarts():
                        self.is_loading = True
                        return observer.leave()
                    self._await_restart(observer)
                self.drained = observer.await_drained(self._timeout_s)
        except TimeoutError:
            self.trouble = self.trouble or "it does not answer: does it hang?"
        except FloverError as error:
            self.is_gone, self.trouble = True, str(error)
        except OSError as error:
            self.trouble = f"cannot reach it: {error}"

    def _await_restart(self, observer: EngineObserver) -> None:
        """Raises TimeoutError."""
        self.trouble = "it is started again and was not loaded in time; what waits for it is ended when it is"
        try:
            observer.await_loaded(max(0.0, self._ends - time.monotonic()) + CUT_TIMEOUT_S)
            self.trouble = None
        finally:
            # NOTE: the engine counts a drain's time from when it is loaded, and the earliest deadline that it is told.
            observer.begin_drain(max(0.0, self._ends - time.monotonic()))

    def _cut(self) -> None:
        try:
            with EngineObserver.open(self.engine, self._tool) as observer:
                observer.drain(0)
        except (FloverError, OSError):
            pass  # `_run` meets the same trouble, and says so


class ServerDrain:
    """The drains of all engines that `find` finds, at first and while it runs.

    `timeout_s`: None is each engine's own `drain_timeout_s`. `tell` gets each outcome as it comes. `patience`: for how
    many seconds an engine that is not to be seen is worth waiting for.
    """

    def __init__(
        self,
        find: Callable[[], list[FoundEngine]],
        timeout_s: float | None,
        tool: str,
        tell: Tell,
        patience: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.drains: list[EngineDrain] = []
        self._find = find
        self._timeout_s = timeout_s
        self._tool = tool
        self._tell = tell
        self._patience = patience
        self._began = time.monotonic()
        self._expecting_since = self._began
        self._is_expecting = False
        self._newcomers_until = self._began + SUCCESSOR_S
        self._num_told = 0
        self._is_cut = False

    def run(self, is_cut_short: Callable[[], bool] = lambda: False) -> None:
        """Return when every engine has answered, `DRAIN_GRACE_S` after the longest timeout at the latest.

        Once `is_cut_short`, what still runs is ended at once.
        """
        while self._is_going_on():
            if is_cut_short() and not self._is_cut:
                self._cut()
            time.sleep(POLL_S)

    def _is_going_on(self) -> bool:
        waits = self._may_follow() or self._is_coming()  # before looking: what appears in between is found
        if waits or time.monotonic() < self._newcomers_until:
            self._start_new()
        self._tell_news()
        return self._num_told < len(self.drains) or waits or self._may_follow()

    def _may_follow(self) -> bool:
        return self._is_expecting and time.monotonic() < self._newcomers_until

    def _is_coming(self) -> bool:
        return time.monotonic() - self._expecting_since < self._patience()

    def _start_new(self) -> None:
        known = {drain.engine.description.engine_pid for drain in self.drains}
        for engine in self._find():
            if engine.description.engine_pid not in known:
                self.drains.append(EngineDrain(engine, self._seconds_left(engine), self._tool))
                self._is_expecting = False

    def _seconds_left(self, engine: FoundEngine) -> float:
        timeout_s = engine.description.drain_timeout_s if self._timeout_s is None else self._timeout_s
        self._newcomers_until = max(self._newcomers_until, self._began + timeout_s)
        return 0.0 if self._is_cut else max(0.0, self._began + timeout_s - time.monotonic())

    def _tell_news(self) -> None:
        for drain in [drain for drain in self.drains if drain.is_over and not drain.is_told]:
            drain.is_told = True
            self._num_told += 1
            self._tell(drain.outcome())
            if drain.is_gone:
                self._is_expecting = True
                self._expecting_since = time.monotonic()
                self._newcomers_until = min(self._newcomers_until, time.monotonic() + SUCCESSOR_S)

    def _cut(self) -> None:
        self._is_cut = True
        for drain in self.drains:
            drain.cut()
