"""`python -m benchmarks.through_triton`: what a client of Triton gets of the bare engine's speed."""
