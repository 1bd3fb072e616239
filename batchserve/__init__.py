"""Serve a PyTorch model over HTTP, in batches."""

__version__ = "0.1.0"
