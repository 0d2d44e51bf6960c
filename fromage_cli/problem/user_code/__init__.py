"""What the user named: code, data, and how the two are told apart."""
