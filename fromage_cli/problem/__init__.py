"""Problem = model + loss + batch + named layers: loss, gradient, Hessian-vector product."""
