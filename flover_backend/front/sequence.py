"""One of a request's n sequences on its way to the client: token ids in, text and what goes with it out.

Knows what of a sequence is text: not the token that ended it (EOS, a stop token), nothing from a stop string on.
Used by one thread at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flover_backend.front.detokenizer import Detokenizer
from flover_backend.front.parse import ParsedRequest
from flover_backend.front.stops import StopFinder
from flover_backend.front.tokenizer import Tokenizer
from flover_backend.request import FinishReason, SamplingParams

TokenLogprob = tuple[float, int, list[tuple[int, float]]]
"""(logprob, rank, top [(id, logprob)]) of one token."""


@dataclass(slots=True)
class Delta:
    """What is new in one sequence since its last response."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


class Sequence:
    """Text, ids and end of one sequence."""

    def __init__(
        self,
        detokenizer: Detokenizer | None,
        stops: StopFinder | None = None,
        ending_ids: tuple[int, ...] = (),
        min_tokens: int = 0,
    ) -> None:
        """`detokenizer` None: no text is wanted. `ending_ids`: EOS and stop tokens, left out of the text at the end."""
        self.finish = FinishReason.NONE
        self.num_tokens = 0
        self.cumulative_logprob = 0.0
        self._detokenizer = detokenizer
        self._stops = stops
        self._ending_ids = ending_ids
        self._min_tokens = min_tokens
        self._delta = Delta()

    @classmethod
    def of(
        cls, parsed: ParsedRequest, params: SamplingParams, tokenizer: Tokenizer | None, eos_token_ids: list[int]
    ) -> Sequence:
        """One of what a request asks for. Text is made where it is wanted or where stop strings are sought in it."""
        wants_text = parsed.outputs.text or bool(parsed.stop)
        detokenizer = Detokenizer(tokenizer.token_bytes) if tokenizer is not None and wants_text else None
        stops = StopFinder(parsed.stop) if parsed.stop else None
        return cls(detokenizer, stops, (*eos_token_ids, *params.stop_token_ids), params.min_tokens)

    def take(self, token_ids: list[int], logprobs: list[TokenLogprob] | None, finish: FinishReason) -> bool:
        """Add the engine's news. True when a stop string ended the sequence here: the engine has to be told.

        Tokens after the one that completed a stop string are dropped. Not to be called after the end.
        """
        for position, token_id in enumerate(token_ids):
            ends = finish == FinishReason.STOP and position == len(token_ids) - 1 and token_id in self._ending_ids
            self._add(token_id, logprobs[position] if logprobs else None, is_text=not ends)
            if self.finish:
                return True
        if finish:
            self._end(finish)
        return False

    def drain(self) -> Delta:
        """What is new since the last call."""
        delta, self._delta = self._delta, Delta()
        return delta

    def _add(self, token_id: int, logprob: TokenLogprob | None, *, is_text: bool) -> None:
        self.num_tokens += 1
        self._delta.token_ids.append(token_id)
        if logprob is not None:
            self.cumulative_logprob += logprob[0]
            self._delta.logprobs.append(logprob)
        if self._detokenizer is not None and is_text:
            self._add_text(self._detokenizer.push(token_id))

    def _add_text(self, text: str) -> None:
        if self._stops is None:
            self._delta.text += text
            return
        free, stopped = self._stops.push(text, may_stop=self.num_tokens >= self._min_tokens)
        self._delta.text += free
        if stopped:
            self.finish = FinishReason.STOP

    def _end(self, finish: FinishReason) -> None:
        if self._detokenizer is not None:
            self._add_text(self._detokenizer.finish())
        if self._stops is not None and not self.finish:
            self._delta.text += self._stops.flush()
        self.finish = self.finish or finish
