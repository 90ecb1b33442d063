"""How many tokens sequences that are over have handed out: a front may find a stop string in them only now."""

from __future__ import annotations

from collections import OrderedDict

from flover_backend.scheduler.sequence import Sequence

MAX_REMEMBERED = 4096


class EndedSequences:
    """The token counts of the last 4,096 sequences that ended by themselves."""

    def __init__(self) -> None:
        self._num_tokens: OrderedDict[tuple[int, int], int] = OrderedDict()

    def remember(self, sequence: Sequence) -> None:
        """`sequence` has just ended."""
        self._num_tokens[sequence.group.key, sequence.index] = len(sequence.output_ids)
        if len(self._num_tokens) > MAX_REMEMBERED:
            self._num_tokens.popitem(last=False)

    def retract(self, key: int, index: int, num_tokens: int) -> int:
        """How many tokens were too many, given that only `num_tokens` count. 0 when asked again, or unknown."""
        return max(0, self._num_tokens.pop((key, index), 0) - max(0, num_tokens))
