"""A request's sequences and how far each has come. Knows tokens and counts, no blocks; its row is RowMap's to set."""

from __future__ import annotations

import enum

from flover_backend.request import Request, SamplingParams
from flover_backend.scheduler.seeds import sequence_seed


class SequenceState(enum.Enum):
    """WAITING -> PREFILL -> RUNNING -> (ENDING ->) FINISHED, and back from PREFILL or RUNNING to PREEMPTED."""

    WAITING = "waiting"
    """Never admitted."""
    PREFILL = "prefill"
    """Holds blocks; its prompt is not all scheduled yet."""
    RUNNING = "running"
    """Holds blocks and a row, decodes one token an iteration."""
    ENDING = "ending"
    """Its last token is in flight; blocks and row are given back already (pipeline depth 1 only)."""
    PREEMPTED = "preempted"
    """Lost blocks and row; waits ahead of the queue for its tokens to be prefilled again."""
    FINISHED = "finished"


_ACTIVE = (SequenceState.PREFILL, SequenceState.RUNNING, SequenceState.ENDING)


class Sequence:
    """One of a request's n sequences. `uid` rises in arrival order over all sequences, so it is also its age."""

    __slots__ = ("group", "index", "num_computed", "num_in_flight", "output_ids", "row", "seed", "state", "uid")

    def __init__(self, uid: int, group: RequestGroup, index: int) -> None:
        self.uid = uid
        self.group = group
        self.index = index
        self.seed = sequence_seed(group.params.seed, index)
        self.state = SequenceState.WAITING
        self.row: int | None = None
        self.output_ids: list[int] = []
        """Tokens whose results are committed."""
        self.num_computed = 0
        """Tokens whose keys and values are in the KV buffer once all plans made so far have run."""
        self.num_in_flight = 0
        """Tokens that plans made so far sample and whose results are not committed yet."""

    @property
    def num_tokens(self) -> int:
        """Prompt and committed outputs: what a prefill from nothing has to cover."""
        return len(self.group.prompt_ids) + len(self.output_ids)

    @property
    def num_scheduled_outputs(self) -> int:
        """Output tokens committed or in flight."""
        return len(self.output_ids) + self.num_in_flight

    def token_slice(self, start: int, length: int) -> list[int]:
        """Tokens at positions start .. start + length - 1, prompt first, then outputs."""
        prompt = self.group.prompt_ids
        outputs = self.output_ids[max(0, start - len(prompt)) : max(0, start + length - len(prompt))]
        return prompt[start : start + length] + outputs

    def __repr__(self) -> str:
        return f"<sequence {self.uid} ({self.group.key}/{self.index}) {self.state.value} row {self.row}>"


class RequestGroup:
    """A request and its n sequences. Until `forked` only `parent` is scheduled, for all of them."""

    __slots__ = ("forked", "key", "num_unfinished", "params", "prompt_ids", "request", "sequences")

    def __init__(self, request: Request, first_uid: int) -> None:
        self.request = request
        self.key = request.key
        self.params: SamplingParams = request.params
        self.prompt_ids = request.prompt_ids
        self.sequences = [Sequence(first_uid + index, self, index) for index in range(request.params.n)]
        self.num_unfinished = len(self.sequences)
        self.forked = len(self.sequences) == 1
        """Each sequence stands for itself (n = 1, or the one prefill is scheduled to its end)."""

    @property
    def parent(self) -> Sequence:
        """Sequence 0, which prefills for all."""
        return self.sequences[0]

    @property
    def children(self) -> list[Sequence]:
        """Sequences 1 .. n-1."""
        return self.sequences[1:]

    @property
    def has_output(self) -> bool:
        """True once a token is committed (all sequences get their first in the same iteration)."""
        return bool(self.parent.output_ids)

    @property
    def is_active(self) -> bool:
        """True while any sequence computes or has its last token in flight."""
        return any(sequence.state in _ACTIVE for sequence in self.sequences)

    def unit_of(self, sequence: Sequence) -> list[Sequence]:
        """The sequences that are admitted and preempted together with `sequence`."""
        return [sequence] if self.forked else self.sequences
