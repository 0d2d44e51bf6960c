"""`report`: what the commands answered about a run, as one page for a browser that needs nothing else."""
