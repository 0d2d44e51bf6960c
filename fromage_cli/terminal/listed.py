"""Checkpoints that standard input lists, where `-` stands among a command's arguments."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from fromage_cli.errors import InputError, UsageError

LIST = "-"


def with_listed(command: Any, values: Mapping[str, Any], read: list[str]) -> dict[str, Any]:
    """The parsed words of a command, with the names on standard input in place of a `-` among its arguments.

    `read`: the names, if they were read before; they are kept in it. Raises UsageError for an empty list and where the
    command takes none, InputError where standard input is closed.
    """
    changed = dict(values)
    for parameter in command.params:
        value = values.get(parameter.name)
        if parameter.param_type_name != "argument" or value is None:
            continue
        if parameter.nargs == -1 and LIST in value:
            read[:] = read or _names()
            changed[parameter.name] = [one for word in value for one in (read if word == LIST else [word])]
        elif parameter.nargs != -1 and str(value) == LIST:
            raise UsageError(
                f"- stands for a list on standard input, and {command.name} takes a single {parameter.metavar}.",
                hint=f"Name it, or run the command for each: … | xargs -n 1 fromage-diag {command.name}",
            )
    return changed


def _names() -> list[str]:
    """The names on standard input, which NUL characters or else line breaks separate."""
    if sys.stdin is None or sys.stdin.closed:
        raise InputError(
            "Standard input is closed, so there is no list of checkpoints.", hint="Name them instead of -."
        )
    data = sys.stdin.buffer.read()
    names = [os.fsdecode(name) for name in (data.split(b"\0") if b"\0" in data else data.splitlines()) if name]
    if not names:
        raise UsageError("Standard input lists no checkpoint.", hint="Give one name a line, as find prints them.")
    return names
