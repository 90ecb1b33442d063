"""`flover bench engine` and `flover bench trace`: the bare engine against what its device can do.

The engine is made the public way, with random weights, and driven in-process by `add` and `step`, with a clock outside.
Nothing here is imported by the engine.
"""
