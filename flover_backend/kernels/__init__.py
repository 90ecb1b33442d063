"""One file per kernel: the launcher, and its plain-torch reference beside it. The CPU runs the references."""
