"""The engine on a GPU: row state, inputs and results of an iteration on the device, and the CUDA graphs that run it.

Needs Triton (Triton-lang, the compiler). Runs on a CPU under Triton's interpreter too, for tests, without graphs.
"""
