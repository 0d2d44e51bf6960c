"""The curvature of the loss, and how far a step may go for it."""
