"""One folder, one question; COMMANDS is the table of contents, in the order of `--help`."""

COMMANDS = {
    "inspect": "What is in this file, and is anything wrong with it: NaN, Inf, tensors of zeros, code that would run?",
    "breakdown": "How far may a step go before a layer's gradient no longer holds?",
    "suggest-lr": "How far may the next step go, and which learning rate should I train at?",
    "norms": "Which layers grow along a run, how fast, and when does it hurt?",
    "intrinsic-lr": "How long do norms take to settle under weight decay, and where is each layer now?",
    "sharpness": "Is my learning rate stable for this network's curvature?",
    "distance": "How far apart are two networks: each layer's weights and, with --model and --batch, the outputs?",
}
"""The commands with the first line of their help, which the program shows without importing them."""
