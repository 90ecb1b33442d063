"""The suite of `python -m benchmarks`: the same requests served in several ways and through several layers."""
