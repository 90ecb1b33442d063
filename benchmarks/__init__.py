"""Measurements of a served model. Each command is a module: `python -m benchmarks.perf_analyzer`.

Runs from the repository's root, in its .venv; nothing in `flover_backend` imports it.
"""
