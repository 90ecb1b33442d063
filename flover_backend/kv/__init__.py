"""The KV buffer that all requests share: block accounting (pure Python) and the tensors themselves."""
