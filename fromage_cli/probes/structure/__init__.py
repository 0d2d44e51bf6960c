"""What kind of network it is: depth, invariance, the function that it computes."""
