"""One folder, one question; COMMANDS is the table of contents, in the order of `--help`."""

COMMANDS = {
    "inspect": "What is in this file: format, step, tensors, norms, dtypes, NaN and Inf, ties, the optimizer and its "
    "settings?",
    "breakdown": "How fast does each layer's gradient break down when all layers move by a relative step η?",
    "suggest-lr": "How far may the next step go, and which learning rate should I train at?",
    "norms": "Which layers' norms grow along a run, how fast, and when does it hurt? --model tests scale invariance "
    "too.",
    "intrinsic-lr": "Where is each layer against its equilibrium norm and rotation, and how long until it gets there?",
    "sharpness": "Is my learning rate stable for this network's curvature?",
    "distance": "How far apart are two networks, layer by layer and (with --model or --batch) as functions?",
}
"""The commands with the first line of their help, which the program shows without importing them."""
