"""A Triton server's host as it is found, and judged: its files, its stub, the Pythons, the GPU, shared memory.

For `flover doctor` and deploy/install.py, which runs before anything is installed: all of it needs the standard library
of Python 3.9 alone, and imports nothing else of this package.
"""
