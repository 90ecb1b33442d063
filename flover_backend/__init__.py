"""flover_backend: temporal fusion of autoregressive language-model requests behind NVIDIA Triton."""

__version__ = "0.1.0"
