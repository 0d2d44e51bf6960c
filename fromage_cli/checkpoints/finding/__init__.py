"""Which file of a directory, a pattern or an address holds the weights."""
