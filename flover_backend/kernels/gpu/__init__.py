"""Kernels in Triton-lang, one file each; their plain-torch references are in the files of the same name one level up.

Nothing here is imported where the device is a CPU, except by the tests, which run these kernels with Triton's
interpreter (`TRITON_INTERPRET=1`, set before Triton is imported).
"""
