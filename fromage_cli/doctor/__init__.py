"""The environment that commands run in: what is installed, what is set, and whether known answers come out."""
