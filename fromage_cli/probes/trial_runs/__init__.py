"""Short real training runs from the weights at hand."""
