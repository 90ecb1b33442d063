"""A load generator over gRPC streams: many processes on one clock; cancels, refusals, whole answers."""
