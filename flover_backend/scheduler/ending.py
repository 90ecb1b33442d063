"""When a sequence is over, by its own tokens. Stop strings, cancellation and deadlines come from outside.

max_model_len needs no look here: a request whose prompt and max_tokens exceed it is never accepted.
"""

from __future__ import annotations

from flover_backend.request import FinishReason
from flover_backend.scheduler.sequence import Sequence


def finish_reason(sequence: Sequence, eos_token_ids: tuple[int, ...]) -> FinishReason:
    """What the last committed token means. A stop token that is also the last one allowed is a STOP.

    `min_tokens` counts the stop token itself.
    """
    params, num_outputs = sequence.group.params, len(sequence.output_ids)
    token = sequence.output_ids[-1]
    is_stop = token in params.stop_token_ids or (token in eos_token_ids and not params.ignore_eos)
    if is_stop and num_outputs >= params.min_tokens:
        return FinishReason.STOP
    return FinishReason.LENGTH if num_outputs >= params.max_tokens else FinishReason.NONE


def is_exhausted(sequence: Sequence) -> bool:
    """Committed and scheduled tokens are all it may have: whatever they will be, none comes after them."""
    return sequence.num_scheduled_outputs >= sequence.group.params.max_tokens
