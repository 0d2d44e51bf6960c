"""What a network's attention, units and outputs are like in one forward pass."""
