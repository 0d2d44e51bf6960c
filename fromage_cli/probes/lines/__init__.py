"""Lines through weight space, and what happens along them."""
