"""What the program says of itself: the schema of its JSON, and an explanation of every finding, field and term."""
