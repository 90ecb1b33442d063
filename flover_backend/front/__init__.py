"""What runs in a Triton model instance (a Python-backend stub process). Imports no torch."""
