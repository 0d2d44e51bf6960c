"""What makes two evaluations of one loss comparable, and the limits on them."""
