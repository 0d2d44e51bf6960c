"""The commands that are no diagnostics: the first line of the help of each, and lines to type."""

OWN_COMMANDS = {
    "watch": "Follow a training run: diagnose each new, complete checkpoint once.",
    "report": "One page for a browser: what every command says about a run.",
    "bundle": "Write or look at a bundle: weights, network, loss and batch in one directory of data.",
    "trust": "Let code that this directory's configuration names run from now on.",
    "doctor": "Does everything work here: is all installed, is the configuration heard, do known answers come out?",
    "explain": "What does a finding, a field of the JSON or a term mean, and what to do?",
    "schema": "Print the JSON Schema of what --json prints.",
}
"""Commands that are no diagnostics, with the first line of their help."""

OWN_EXAMPLES = {
    "watch": (
        ("watch run/", "the files of each checkpoint, as they come"),
        ("watch run/ --model net.py:build --batch data.npz --idle 2h", "with the network, until the run ends"),
        ("watch run/ --on-fail 'scancel 1234'", "stop a job when its run is broken"),
        ("watch run/ --once --interval 2", "what is there now, for cron"),
    ),
    "report": (
        ("report run/ -o report.html", "ask about the run, and draw the answers"),
        ("report answers/*.json -o report.html", "draw answers that you saved with --json"),
    ),
    "bundle": (
        ("bundle create model.pt all/ --model net.py:build --batch x.npz", "then: breakdown all/"),
        ("bundle info all/ --check", "what it holds, and whether it still gives its loss"),
    ),
    "trust": (
        ("trust .", "the fromage.toml here may name code"),
        ("trust --list", "what you trust so far"),
    ),
    "doctor": (
        ("doctor -v", "versions, devices, settings, a self-test, and how to install extras"),
        ("doctor --json", "all of it, to send with a question"),
        ("doctor -q > /dev/null || exit", "the first line of a job script"),
    ),
    "explain": (
        ("explain breakdown-early", "a finding: when it is said, usual causes, what to do"),
        ("explain suggest-lr.limit.eta", "a field of the JSON"),
        ("explain relative-step", "a term, with its formula and a worked number"),
        ("explain --all", "every name there is"),
    ),
    "schema": (
        ("schema check > check.schema.json", "of one command"),
        ("schema -o fromage-diag.schema.json", "of all of them"),
    ),
}
"""Command lines for the end of each command's help, with what they are for."""
