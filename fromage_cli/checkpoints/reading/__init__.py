"""Tensors read at the speed of the disk, and reduced to numbers on the way."""
