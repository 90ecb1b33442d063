"""`flover top`: a live server's rows in flight, queue, KV, tokens/s and latencies, from its /metrics alone."""
