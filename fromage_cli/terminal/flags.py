"""The flags of typer's commands, seen by name: which there are, which were given, and where their values came from."""

from collections.abc import Mapping
from typing import Any

import typer

from fromage_cli.terminal.configuration import Flag

_RANKS = {"default": 0, "project": 1, "environment": 2, "command line": 3}


def command_flags(ctx: typer.Context) -> dict[str, dict[str, Flag]]:
    """The flags of every command of the program, by command and by name with hyphens; `ckpt` is one of them."""
    parent = ctx.parent.command if ctx.parent is not None else None
    commands: dict[str, Any] = dict(getattr(parent, "commands", {}))
    commands[ctx.command.name or ""] = ctx.command
    return {name: _flags(command) for name, command in commands.items()}


def _flags(command: Any) -> dict[str, Flag]:
    flags = {
        snake_case(option).replace("_", "-"): Flag(option.name, option.multiple, option.is_flag)
        for option in options(command)
    }
    for parameter in command.params:
        if parameter.param_type_name == "argument" and parameter.name == "ckpt":
            flags["ckpt"] = Flag(parameter.name, parameter.nargs == -1, False)
    return flags


def options(command: Any) -> list[Any]:
    """The command's options without its arguments."""
    return [parameter for parameter in command.params if parameter.param_type_name == "option"]


def snake_case(option: Any) -> str:
    """The option's flag as a key: `--time-limit` → `time_limit`."""
    return str(max(option.opts, key=len)).lstrip("-").replace("-", "_")


def named_checkpoints(command: Any, given: Mapping[str, Any]) -> list[str]:
    """Whatever among the parsed words may be the path of a checkpoint: arguments, `to:CKPT`, an optimizer's file."""
    paths: list[str] = []
    for parameter in command.params:
        value = given.get(parameter.name)
        texts = [text for text in (value if isinstance(value, list | tuple) else [value]) if isinstance(text, str)]
        if parameter.param_type_name == "argument" or parameter.name == "optimizer_state":
            paths += texts
        else:
            paths += [text.removeprefix("to:") for text in texts if text.startswith("to:")]
    return paths


def origins(ctx: typer.Context, configured: Mapping[str, str]) -> dict[str, str]:
    """Where each parameter's value came from: `command line`, `environment`, `project` or `default`."""
    found = {}
    for name in ctx.params:
        source = ctx.get_parameter_source(name)
        kind = source.name if source is not None else "DEFAULT"
        if kind == "DEFAULT_MAP":
            found[name] = configured.get(name, "default")
        else:
            found[name] = "command line" if kind == "COMMANDLINE" else "default"
    return found


def outranks(first: str, second: str) -> bool:
    """Whether a value of the first origin wins over one of the second."""
    return _RANKS[first] > _RANKS[second]
