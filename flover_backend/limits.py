"""The limits of a request that do not depend on the loaded model. Fronts tell clients of them, the engine holds
fronts to them; those that do depend on it are in `channel.EngineInfo`."""

from __future__ import annotations

MAX_JSON_BYTES = 64 * 1024
MAX_JSON_DEPTH = 8
"""Objects and lists inside one another; no parameter needs more than two."""
MAX_STOP_STRINGS = 64
MAX_STOP_BYTES = 256
MAX_STOP_TOKENS = 64
MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024
MAX_DEADLINE_MS = 86_400_000
MAX_NUMBER_CHARACTERS = 400
"""Of a number that is sent as a string; the longest that a float64 prints is 327 without an exponent."""
