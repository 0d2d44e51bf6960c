"""How an error is to be told, read off the bare arguments: the command line itself may be what is wrong."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from fromage_cli.terminal import session
from fromage_cli.terminal.output import EXTENSIONS


@dataclass(frozen=True)
class Asked:
    """What the arguments ask of a message."""

    json: str | None
    """`json` or `jsonl` where a program reads the answer."""
    verbose: bool
    debug: bool


def asked(args: Sequence[str], environment: Mapping[str, str] | None = None) -> Asked:
    """What the running session knows of it; before there is one, what the arguments look like."""
    environment = os.environ if environment is None else environment
    words = list(args[: list(args).index("--")]) if "--" in args else list(args)
    running = session.current()
    output = _value(words, "--output") or _value(words, "-o") or ""
    format = _value(words, "--format") or environment.get("FROMAGE_DIAG_FORMAT") or "auto"
    if format == "auto":
        format = EXTENSIONS.get(PurePath(output).suffix.lower(), "auto")
    json = "json" if "--json" in words else format if format in ("json", "jsonl") else None
    if running.destination is not None and running.destination.json:
        json = running.destination.format
    short = "".join(word[1:] for word in words if word[:1] == "-" and word[1:].isalpha())
    return Asked(
        json=json,
        verbose=running.output.verbose or "--verbose" in words or "v" in short,
        debug=running.output.debug or "--debug" in words,
    )


def _value(words: Sequence[str], option: str) -> str | None:
    """The last value given to the option, as the next word or joined to it."""
    joined = option if len(option) == 2 else option + "="
    found = None
    for index, word in enumerate(words):
        if word == option and index + 1 < len(words):
            found = words[index + 1]
        elif word.startswith(joined) and word != option:
            found = word.removeprefix(joined).removeprefix("=")
    return found
