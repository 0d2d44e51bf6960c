"""Which dictionary of a training checkpoint holds the weights."""
