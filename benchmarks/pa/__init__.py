"""NVIDIA's perf_analyzer on a live server: its binary, its modes, its export file, and the figures from that."""
