"""One iteration's news for one front, gathered into at most one `Tokens` message and the `Ended` ones after it."""

from __future__ import annotations

from dataclasses import dataclass, field

from flover_backend.channel import Ended, Tokens
from flover_backend.engine.interface import SequenceUpdate


@dataclass(slots=True)
class FrontNews:
    """Parallel lists, as `Tokens` carries them."""

    keys: list[int] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)
    token_ids: list[list[int]] = field(default_factory=list)
    finish: list[int] = field(default_factory=list)
    logprobs: dict[int, list[tuple[float, int, list[tuple[int, float]]]]] = field(default_factory=dict)
    queue_seconds: dict[int, float] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)

    def add(self, update: SequenceUpdate) -> None:
        """A sequence's tokens, or its end."""
        if update.logprobs:
            self.logprobs[len(self.keys)] = [(entry.logprob, entry.rank, entry.top) for entry in update.logprobs]
        self.keys.append(update.key)
        self.indexes.append(update.index)
        self.token_ids.append(list(update.token_ids))
        self.finish.append(int(update.finish))

    def messages(self) -> list[Tokens | Ended]:
        """In the order in which they are to be sent."""
        if not self.keys:
            return [*self.ended]
        tokens = Tokens(self.keys, self.indexes, self.token_ids, self.finish, self.logprobs, self.queue_seconds)
        return [tokens, *self.ended]
