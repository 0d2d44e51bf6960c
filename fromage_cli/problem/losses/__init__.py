"""Which loss, and how the batch reaches the network."""
