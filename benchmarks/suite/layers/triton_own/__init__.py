"""Layers `triton-instances` and `triton-dynamic`: a model as Triton serves any, which Flover's paper compared with.

An engine of this package behind a plain Python model, not decoupled: `instance_group` with a request an instance, or
`dynamic_batching` in front of one instance, whose batches run to completion.
"""
