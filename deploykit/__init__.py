"""deploykit: make a trained PyTorch network hardware-friendly, export it, prove it, measure it."""

__version__ = "0.1.0"
