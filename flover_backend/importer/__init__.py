"""GGUF files made into Hugging Face directories. Needs `gguf` and numpy, no torch."""
