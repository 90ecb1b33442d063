"""Who runs in the next iteration. Pure Python: no torch, no Triton."""
