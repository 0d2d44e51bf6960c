"""The checkpoints of a run: which there are, their steps, the logs beside them."""
