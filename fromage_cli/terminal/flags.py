"""The flags of typer's commands, seen by name: which there are, which were given, and where their values came from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import typer

_RANKS = {"default": 0, "project": 1, "environment": 2, "command line": 3}


@dataclass(frozen=True)
class Flag:
    """What configuration must know of a command's option."""

    parameter: str
    """Its name in the call."""
    multiple: bool
    boolean: bool


class CommandFlags(Mapping[str, Mapping[str, Flag]]):
    """The flags of every command of a program, by command and by name with hyphens; `ckpt` is one of them.

    A command is imported when its flags are asked for.
    """

    def __init__(self, program: Any) -> None:
        self._program = program

    def __getitem__(self, name: str) -> Mapping[str, Flag]:
        if name not in self._program.commands:
            raise KeyError(name)
        command = self._program.command(name)
        flags = {
            snake_case(option).replace("_", "-"): Flag(option.name, option.multiple, option.is_flag)
            for option in options(command)
        }
        for parameter in command.params:
            if parameter.param_type_name == "argument" and parameter.name == "ckpt":
                flags["ckpt"] = Flag(parameter.name, parameter.nargs == -1, False)
        return flags

    def __iter__(self) -> Iterator[str]:
        return iter(self._program.commands)

    def __len__(self) -> int:
        return len(self._program.commands)

    @property
    def every(self) -> set[str]:
        """The flags of all commands."""
        return {flag for flags in self.values() for flag in flags}


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
