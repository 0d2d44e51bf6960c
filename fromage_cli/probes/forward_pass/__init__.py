"""What a single forward pass on the batch tells of a network."""
