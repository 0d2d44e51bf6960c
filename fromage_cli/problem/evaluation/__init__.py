"""The loss, its gradient and its second derivatives."""
