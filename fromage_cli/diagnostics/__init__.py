"""One folder, one question; COMMANDS is the table of contents, in the order of `--help`."""

COMMANDS = ("inspect", "breakdown", "suggest-lr", "norms", "intrinsic-lr", "sharpness", "distance")
