"""What the pickles of a file would have run."""
