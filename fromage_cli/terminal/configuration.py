"""Flags that the project or the environment sets, typed as the command line would have typed them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fromage_cli.errors import UsageError
from fromage_cli.terminal.flags import CommandFlags, Flag
from fromage_cli.terminal.project import ProjectConfiguration, place, shown
from fromage_cli.terminal.trust import CODE_FLAGS, code_in
from fromage_cli.terminal.words import nearest, visible

PREFIX = "FROMAGE_DIAG_"

DATA_KEYS = frozenset(
    {
        "activation",
        "residual",
        "norm",
        "batch",
        "loss",
        "mode",
        "lr",
        "weight-decay",
        "momentum",
        "optimizer",
        "betas",
        "train-batch-size",
        "steps-per-epoch",
        "schedule",
        "warmup-steps",
        "total-steps",
    }
)
"""What a file beside a checkpoint may declare; met in a project's configuration, those that are no flags are left."""
RULES_KEY = "rule"
"""Tables that say what `check` makes of its findings; no flag."""
ONE_CALL_ONLY = frozenset({"trust", "list", "remove", "on-fail"})
"""Flags that no configuration can give: they hold for one call."""
WITHOUT_ENVIRONMENT = ONE_CALL_ONLY | {"ckpt", "force", "json", "value", "estimate", "output"}
TOLD_TO_ON_FAIL = frozenset({PREFIX + name for name in ("CHECKPOINT", "STEP", "VERDICT", "LOG")})
"""Variables of ours that the command of `--on-fail` finds; they mean nothing to a call of ours in it."""
OF_OPTIMIZERS = frozenset({"lr", "momentum", "nesterov", "betas", "weight-decay"})
"""Flags that are settings of the optimizer that stands beside them in a configuration."""
_TRUTHS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_PATH_KEYS = frozenset({*CODE_FLAGS, "ckpt", "optimizer-state", "plot", "log", "metrics", "tensorboard"})


def flag_values(project: ProjectConfiguration, command: str, flags: CommandFlags) -> dict[str, tuple[Any, str]]:
    """Every flag of `command` that the project sets, by flag name, with the words that name its source.

    Raises UsageError for a key that no command has.
    """
    if project.source is None:
        return {}
    check_keys(project.values, project.source, command, flags)
    own = flags[command]
    chosen: dict[str, tuple[Any, str]] = {}
    for section, table in ((project.values, ""), (project.values.get(command), command)):
        for key, value in section.items() if isinstance(section, Mapping) else ():
            if key in own:
                where = f"{key} in {place(project.source, table)}"
                chosen[key] = (_resolved(value, key, project.source.parent), where)
    return {key: (typed(value, own[key], where), where) for key, (value, where) in chosen.items()}


def without_other_optimizers(written: dict[str, tuple[Any, str]], chosen: object) -> dict[str, tuple[Any, str]]:
    """What the project sets, without its optimizer's settings where another optimizer was chosen."""
    named = written.get("optimizer", (chosen, ""))[0]
    if chosen is None or str(chosen).lower() == str(named).lower():
        return written
    return {flag: value for flag, value in written.items() if flag not in OF_OPTIMIZERS}


def check_keys(values: Mapping[str, Any], source: Path, command: str, flags: CommandFlags) -> None:
    """Raise UsageError for the first unknown key, naming the nearest one and the file."""
    known = {*flags[command], *DATA_KEYS, "ckpt", RULES_KEY}
    for key, value in values.items():
        if isinstance(value, dict) and key in flags:
            for inner in value:
                _check_key(inner, {*flags[key]}, place(source, key), source)
            continue
        if key not in known:  # only then are the other commands imported
            known |= flags.every
        _check_key(key, known, place(source), source)


def _check_key(key: str, known: set[str], where: str, source: Path) -> None:
    if key in ONE_CALL_ONLY:
        raise UsageError(
            f"{key} in {shown(source)}: it holds for one call.", hint=f"Give --{key} on the command line instead."
        )
    if key not in known:
        hint = f"{nearest(key, sorted(known - ONE_CALL_ONLY))}Correct it there."
        raise UsageError(f"No command has the key {visible(key)!r} of {where}.", hint)


def environment_values(environment: Mapping[str, str], flags: Mapping[str, Flag]) -> dict[str, tuple[Any, str]]:
    """Every flag of a command that the environment sets, by flag name, with the variable's name."""
    chosen: dict[str, tuple[Any, str]] = {}
    for key, flag in flags.items():
        name = variable(key)
        text = environment.get(name)
        if text and key not in WITHOUT_ENVIRONMENT:
            value: Any = text
            if flag.multiple:
                try:
                    value = json.loads(text)
                except ValueError:
                    hint = f"""{name}='["a", "b"]'"""
                    raise UsageError(f"{name}: {text!r} is not a JSON array.", hint) from None
            chosen[key] = (typed(value, flag, name), name)
    return chosen


def ignored_variables(environment: Mapping[str, str], command: str, flags: CommandFlags) -> list[str]:
    """Variables with our prefix that mean nothing: no command has such a flag, or the flag has no variable."""
    own = {variable(flag) for flag in flags[command] if flag not in WITHOUT_ENVIRONMENT} | TOLD_TO_ON_FAIL
    others = sorted(name for name in environment if name.startswith(PREFIX) and name not in own)
    if not others:
        return []
    known = {variable(flag) for flag in flags.every if flag not in WITHOUT_ENVIRONMENT}
    return [name for name in others if name not in known]


def variable(flag: str) -> str:
    """The environment variable of a flag: `micro-batch` → `FROMAGE_DIAG_MICRO_BATCH`."""
    return PREFIX + flag.replace("-", "_").upper()


def typed(value: Any, flag: Flag, where: str) -> Any:
    """The value as the command line would have given it: text, a list of texts, or true and false."""
    if flag.boolean:
        truth = _TRUTHS.get(value.strip().lower()) if isinstance(value, str) else value
        if not isinstance(truth, bool):
            raise UsageError(f"{where}: {value!r} is not true or false.", hint="Write true or false.")
        return truth
    if isinstance(value, dict) and flag.multiple:
        return [f"{name}={json.dumps(item, default=str)}" for name, item in value.items()]
    if isinstance(value, list):
        words = [_word(item, where) for item in value]
        return words if flag.multiple else ",".join(words)
    if flag.multiple and not (isinstance(value, str) and where.startswith("ckpt ")):
        raise UsageError(f"{where}: {value!r} is not a list.", hint='Write a list, such as ["a", "b"].')
    return [_word(value, where)] if flag.multiple else _word(value, where)


def _word(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{where}: {value!r} is neither text nor a number.", hint="Write a string or a number.")
    if "\0" in (text := str(value)):  # which no command line can hold
        raise UsageError(f"{where}: {visible(text)} has a null character.", hint="Write it without.")
    return text


def _resolved(value: Any, key: str, directory: Path) -> Any:
    """A path in a project's file is relative to that file; anything that names no file there stays as it is."""
    if isinstance(value, list):
        return [_resolved(item, key, directory) for item in value]
    if key not in _PATH_KEYS or not isinstance(value, str) or directory == Path.cwd():
        return value
    code = code_in(key, value)
    if code is not None and code.is_file:  # whether it is there or not: it is never another one in a working directory
        return f"{directory / code.path}:{code.name}"
    if "://" in value:
        return value
    file, colon, name = value.rpartition(":") if ":" in value else (value, "", "")
    looks_like_path = key == "ckpt" or os.sep in file or Path(file).suffix != ""
    return f"{directory / file}{colon}{name}" if looks_like_path and (directory / file).exists() else value
