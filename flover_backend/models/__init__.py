"""Model architectures and the reading of Hugging Face directories."""
