"""What the environment and the project's configuration set, where each value comes from, and what has no effect."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.storage.remote import redacted
from fromage_cli.doctor.result import NO_CODE, NOT_TRUSTED, TRUSTED, Project, Setting
from fromage_cli.errors import FromageError, UsageError
from fromage_cli.terminal.configuration import (
    DATA_KEYS,
    PREFIX,
    RULES_KEY,
    TOLD_TO_ON_FAIL,
    WITHOUT_ENVIRONMENT,
    environment_values,
    flag_values,
    variable,
)
from fromage_cli.terminal.flags import CommandFlags
from fromage_cli.terminal.project import ProjectConfiguration, find_project, place
from fromage_cli.terminal.trust import is_trusted, specifications


def find_configuration(directory: Path) -> ProjectConfiguration | UsageError:
    """The project's configuration, as commands find it from a directory; the error where it cannot be read."""
    try:
        return find_project(directory)
    except FileNotFoundError:  # the working directory is gone
        return ProjectConfiguration()
    except UsageError as error:
        return error


def project(found: ProjectConfiguration, directory: Path) -> Project | None:
    """The file of the project's configuration, what it names that would run, and whether the user trusts it."""
    if found.source is None:
        return None
    code = tuple(dict.fromkeys(one.text for one in specifications(found.values)))
    try:
        trusted = bool(code) and is_trusted(found.source, found.values, directory)
    except FromageError:  # there is no place of the user's in which it could be remembered
        trusted = False
    return Project(str(found.source), (TRUSTED if trusted else NOT_TRUSTED) if code else NO_CODE, code)


def settings(found: ProjectConfiguration, environment: Mapping[str, str], flags: CommandFlags) -> tuple[Setting, ...]:
    """Every variable with our prefix, and every key of the project's configuration."""
    variables = tuple(_variables(environment, flags))
    set_by = {one.name: one.where for one in variables if one.in_effect}
    return (*variables, *_keys(found, flags, set_by))


def _variables(environment: Mapping[str, str], flags: CommandFlags) -> Iterator[Setting]:
    named = {variable(flag): flag for flag in flags.every if flag not in WITHOUT_ENVIRONMENT}
    for name in sorted(name for name in environment if name.startswith(PREFIX)):
        flag, reason, unknown = named.get(name, name), "", False
        if name in TOLD_TO_ON_FAIL:
            reason = "watch tells it to the command of --on-fail"
        elif name in map(variable, WITHOUT_ENVIRONMENT):
            reason = "this flag stands on the command line alone"
        elif name not in named:
            reason, unknown = _unknown(name, named), True
        elif not environment[name]:
            reason = "it is empty"
        yield Setting(flag, _printable(environment[name]), "environment", name, not reason, reason, unknown)


def _keys(found: ProjectConfiguration, flags: CommandFlags, set_by: Mapping[str, str]) -> Iterator[Setting]:
    if found.source is None:
        return
    own = {key: value for key, value in found.values.items() if key in flags and isinstance(value, Mapping)}
    every = flags.every
    for table, values in {"": found.values, **own}.items():
        for key, value in values.items():
            if not table and (key in own or key == RULES_KEY):
                continue
            unknown = key not in every and key not in DATA_KEYS
            reason = _unknown(key, every) if unknown else ""
            reason = f"{set_by[key]} goes first" if key in set_by else reason
            yield Setting(key, _printable(value), "project", place(found.source, table), not reason, reason, unknown)


def _unknown(name: str, known: Iterable[str]) -> str:
    """Why an unknown name has no effect, with the nearest that has one."""
    near = get_close_matches(name[:100], sorted(known), n=1, cutoff=0.0)
    return f"no command has such a flag. Nearest: {', '.join(near)}."


def _printable(value: Any) -> str:
    """The value as it may be shown: without user, password and signatures of a URL."""
    return redacted(str(value))


def faults(
    found: ProjectConfiguration | UsageError, environment: Mapping[str, str], flags: CommandFlags
) -> tuple[str, ...]:
    """What any command would say of the configuration in place of an answer, each sentence once."""
    said = [] if isinstance(found, ProjectConfiguration) else [_sentence(found)]
    for command in flags:
        try:
            environment_values(environment, flags[command])
            if isinstance(found, ProjectConfiguration):
                flag_values(found, command, flags)
        except FromageError as error:
            said.append(_sentence(error))
    return tuple(dict.fromkeys(redacted(sentence) for sentence in said))


def _sentence(error: FromageError) -> str:
    return f"{error.message} {error.hint}".strip()
