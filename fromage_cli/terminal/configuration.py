"""Flags that the project or the environment sets, typed as the command line would have typed them."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fromage_cli.errors import UsageError
from fromage_cli.terminal.project import ProjectConfiguration, place, shown
from fromage_cli.terminal.words import visible

PREFIX = "FROMAGE_DIAG_"

DATA_KEYS = frozenset(
    {
        "activation",
        "residual",
        "norm",
        "batch",
        "loss",
        "mode",
        "learning-rate",
        "weight-decay",
        "momentum",
        "betas",
        "steps-per-epoch",
    }
)
"""What a file beside a checkpoint may declare; met in a project's configuration, those that are no flags are left."""
OTHER_KEYS = frozenset({"trusted", "ckpt"})
ONE_CALL_ONLY = frozenset({"trust"})
"""Flags that no configuration can give: they hold for one call."""
WITHOUT_ENVIRONMENT = frozenset({"ckpt", "trust", "force", "json", "value", "estimate", "output"})
_PATH_KEYS = frozenset({"ckpt", "model", "batch", "val-batch", "loss", "optimizer-state", "plot"})


@dataclass(frozen=True)
class Flag:
    """What configuration must know of a command's option."""

    parameter: str
    """Its name in the call."""
    multiple: bool
    boolean: bool


def flag_values(
    project: ProjectConfiguration, command: str, flags: Mapping[str, Mapping[str, Flag]]
) -> dict[str, tuple[Any, str]]:
    """Every flag of `command` that the project sets, by flag name, with the words that name its source.

    `flags` holds the flags of every command. Raises UsageError for a key that no command has.
    """
    if project.source is None:
        return {}
    check_keys(project.values, project.source, flags)
    own = flags.get(command, {})
    chosen: dict[str, tuple[Any, str]] = {}
    for section, table in ((project.values, ""), (project.values.get(command, {}), command)):
        for key, value in section.items():
            if key in own:
                where = f"{key} in {place(project.source, table)}"
                chosen[key] = (_resolved(value, key, project.source.parent), where)
    return {key: (typed(value, own[key], where), where) for key, (value, where) in chosen.items()}


def check_keys(values: Mapping[str, Any], source: Path, flags: Mapping[str, Mapping[str, Flag]]) -> None:
    """Raise UsageError for the first unknown key, naming the nearest one and the file."""
    every = {flag for own in flags.values() for flag in own}
    for key, value in values.items():
        if isinstance(value, dict) and key in flags:
            for inner in value:
                _check_key(inner, {*flags[key]}, place(source, key), source)
        else:
            _check_key(key, {*every, *flags, *OTHER_KEYS, *DATA_KEYS}, place(source), source)
    digests = values.get("trusted", [])
    if not isinstance(digests, list) or not all(isinstance(digest, str) for digest in digests):
        raise UsageError(f"trusted in {shown(source)} is not a list of strings.", hint='trusted = ["<sha256>"]')


def _check_key(key: str, known: set[str], where: str, source: Path) -> None:
    if key in ONE_CALL_ONLY:
        raise UsageError(
            f"{key} in {shown(source)}: it holds for one call.", hint=f"give --{key} on the command line instead"
        )
    if key not in known:
        near = get_close_matches(key, sorted(known - ONE_CALL_ONLY), n=1, cutoff=0.0)
        raise UsageError(f"unknown key {visible(key)!r} in {where}.", hint=f"nearest: {', '.join(near)}")


def environment_values(environment: Mapping[str, str], flags: Mapping[str, Flag]) -> dict[str, tuple[Any, str]]:
    """Every flag of a command that the environment sets, by flag name, with the variable's name."""
    chosen: dict[str, tuple[Any, str]] = {}
    for key, flag in flags.items():
        name = variable(key)
        text = environment.get(name)
        if text and key not in WITHOUT_ENVIRONMENT:
            value = _from_json(text, name) if flag.multiple else text
            chosen[key] = (typed(value, flag, name), name)
    return chosen


def ignored_variables(environment: Mapping[str, str], every_flag: Iterable[str]) -> tuple[str, ...]:
    """Variables with our prefix that mean nothing: no such flag, or one that has no variable."""
    known = {variable(flag) for flag in every_flag if flag not in WITHOUT_ENVIRONMENT}
    return tuple(sorted(name for name in environment if name.startswith(PREFIX) and name not in known))


def variable(flag: str) -> str:
    """The environment variable of a flag: `micro-batch` → `FROMAGE_DIAG_MICRO_BATCH`."""
    return PREFIX + flag.replace("-", "_").upper()


def _from_json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise UsageError(f"{name}: {text!r} is not a JSON array.", hint=f"""{name}='["a", "b"]'""") from None


def typed(value: Any, flag: Flag, where: str) -> Any:
    """The value as the command line would have given it: text, a list of texts, or true and false."""
    if flag.boolean:
        return _truth(value, where)
    if flag.multiple:
        return _words(value, where)
    if isinstance(value, list):
        return ",".join(_word(item, where) for item in value)
    return _word(value, where)


def _truth(value: Any, where: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(value, str):
        value = words.get(value.strip().lower(), value)
    if not isinstance(value, bool):
        raise UsageError(f"{where}: {value!r} is not true or false.", hint="write true or false")
    return value


def _words(value: Any, where: str) -> list[str]:
    if isinstance(value, str) and where.startswith("ckpt "):
        return [value]
    if isinstance(value, dict):
        return [f"{name}={json.dumps(item)}" for name, item in value.items()]
    if not isinstance(value, list):
        raise UsageError(f"{where}: {value!r} is not a list.", hint='write a list, such as ["a", "b"]')
    return [_word(item, where) for item in value]


def _word(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{where}: {value!r} is neither text nor a number.", hint="write a string or a number")
    return str(value)


def _resolved(value: Any, key: str, directory: Path) -> Any:
    """A path in a project's file is relative to that file; anything that names no file there stays as it is."""
    if isinstance(value, list):
        return [_resolved(item, key, directory) for item in value]
    if key not in _PATH_KEYS or not isinstance(value, str) or "://" in value or directory == Path.cwd():
        return value
    file, colon, name = value.rpartition(":") if ":" in value else (value, "", "")
    looks_like_path = key == "ckpt" or os.sep in file or Path(file).suffix != ""
    return f"{directory / file}{colon}{name}" if looks_like_path and (directory / file).exists() else value
