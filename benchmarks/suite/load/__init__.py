"""A load generator over gRPC streams: many processes on one clock, requests that are cancelled, refused, not streamed."""
