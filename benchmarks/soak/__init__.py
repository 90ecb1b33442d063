"""`python -m benchmarks.soak`: mixed traffic and faults for as long as asked; every accepted request accounted for."""
