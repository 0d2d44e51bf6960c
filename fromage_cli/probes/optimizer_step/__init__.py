"""The step that the optimizer would take next, its noise included."""
