"""When a sequence is over, by its own tokens. Stop strings, cancellation and deadlines come from outside."""

from __future__ import annotations

from flover_backend.request import FinishReason
from flover_backend.scheduler.config import SchedulerConfig
from flover_backend.scheduler.sequence import Sequence


def finish_reason(sequence: Sequence, config: SchedulerConfig) -> FinishReason:
    """What the last committed token means. A stop token that is also the last one allowed is a STOP."""
    params, num_outputs = sequence.group.params, len(sequence.output_ids)
    token = sequence.output_ids[-1]
    is_stop = token in params.stop_token_ids or (token in config.eos_token_ids and not params.ignore_eos)
    if is_stop and num_outputs >= params.min_tokens:
        return FinishReason.STOP
    return FinishReason.LENGTH if _at_limit(sequence, num_outputs, config) else FinishReason.NONE


def is_exhausted(sequence: Sequence, config: SchedulerConfig) -> bool:
    """Committed and scheduled tokens are all it may have: whatever they will be, none comes after them."""
    return _at_limit(sequence, sequence.num_scheduled_outputs, config)


def _at_limit(sequence: Sequence, num_outputs: int, config: SchedulerConfig) -> bool:
    group = sequence.group
    return num_outputs >= group.params.max_tokens or len(group.prompt_ids) + num_outputs >= config.max_model_len
