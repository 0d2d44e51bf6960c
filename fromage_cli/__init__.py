"""Diagnostics of a saved neural network, from the shell: a checkpoint, a batch, no training loop."""

__version__ = "0.1.0"
