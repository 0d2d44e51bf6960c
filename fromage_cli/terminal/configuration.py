"""Flags a project has written down: `[tool.fromage-diag]` in pyproject.toml or fromage.toml, nearest upwards.

A file in the checkpoint's own directory or below it is never the project's: it is data beside the checkpoint,
whoever stands in that directory. So the checkpoints must be known before the configuration is.
"""

import json
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fromage_cli.errors import UsageError
from fromage_cli.terminal.words import visible

FILES = ("fromage.toml", "pyproject.toml")
SECTION = "fromage-diag"
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


@dataclass(frozen=True)
class ProjectConfiguration:
    """The project's own configuration: written by the user, so code named in it may run."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """By flag name with hyphens; sub-tables of commands stand under the command's name."""
    source: Path | None = None
    skipped: tuple[Path, ...] = ()
    """Nearer configuration files that lie beside a checkpoint and therefore are data only."""

    @property
    def trusted(self) -> tuple[str, ...]:
        """SHA-256 digests of bundles that may run without `--trust`."""
        return tuple(self.values.get("trusted", ()))


def project_configuration(
    working_directory: Path, checkpoint_paths: Iterable[str | Path] = ()
) -> tuple[Mapping[str, Any], Path | None]:
    """The values and the file of the project's configuration: the nearest upwards that is not beside a checkpoint."""
    found = find_project(working_directory, checkpoint_paths)
    return found.values, found.source


def find_project(working_directory: Path, checkpoint_paths: Iterable[str | Path] = ()) -> ProjectConfiguration:
    """As `project_configuration`, and which files were passed over."""
    data_directories = [directory for path in checkpoint_paths for directory in _directories_of(path)]
    skipped: list[Path] = []
    for directory in (working_directory.absolute(), *working_directory.absolute().parents):
        for path in (directory / name for name in FILES):
            if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file() raises where a directory is closed to us
                continue
            if _inside(path, data_directories):
                skipped.append(path)
            elif (values := read_section(path)) is not None:
                return ProjectConfiguration(values, path, tuple(skipped))
    return ProjectConfiguration(skipped=tuple(skipped))


def is_beside(path: Path, checkpoint_paths: Iterable[str | Path]) -> bool:
    """Whether a configuration file lies in the directory of one of the checkpoints, or below it."""
    return _inside(path.absolute(), [directory for place in checkpoint_paths for directory in _directories_of(place)])


def _directories_of(checkpoint: str | Path) -> list[Path]:
    """The directory a checkpoint lies in, or is: as it is named, and where its links lead."""
    if "://" in str(checkpoint):
        return []
    path = Path(checkpoint).absolute()
    if not os.path.lexists(path):
        return []
    places = (Path(os.path.normpath(path)), path.resolve())
    return [place if path.is_dir() else place.parent.resolve() for place in places]


def _inside(path: Path, directories: Sequence[Path]) -> bool:
    parents = {*path.parents, *path.resolve().parents, path.parent.resolve()}
    return any(directory in parents or directory.resolve() in parents for directory in directories)


def read_section(path: Path) -> dict[str, Any] | None:
    """The file's keys with hyphens; None where a pyproject.toml has no `[tool.fromage-diag]`."""
    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{_shown(path)} is not valid TOML: {error}.", hint="correct that line") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{_shown(path)} is not UTF-8 text.", hint="save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{_shown(path)} cannot be read: {error.strerror}.", hint="check its permissions") from error
    if path.name == "pyproject.toml":
        document = document.get("tool", {}).get(SECTION)
    elif set(document) == {"tool"}:
        document = document["tool"].get(SECTION, {})
    if document is None:
        return None
    if not isinstance(document, dict):
        raise UsageError(f"[tool.{SECTION}] in {_shown(path)} is not a table.", hint="write `flag = value` lines")
    return _hyphenated(document)


def _hyphenated(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key.replace("_", "-"): _hyphenated(value)
        if isinstance(value, dict) and key.replace("_", "-") != "model-arg"
        else value
        for key, value in section.items()
    }


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
    sections = ((project.values, SECTION), (project.values.get(command, {}), f"{SECTION}.{command}"))
    for section, title in sections:
        for key, value in section.items():
            if key in own:
                where = f"{key} in {_shown(project.source)} [{title}]"
                chosen[key] = (_resolved(value, key, project.source.parent), where)
    return {key: (typed(value, own[key], where), where) for key, (value, where) in chosen.items()}


def check_keys(values: Mapping[str, Any], source: Path, flags: Mapping[str, Mapping[str, Flag]]) -> None:
    """Raise UsageError for the first unknown key, naming the nearest one and the file."""
    every = {flag for own in flags.values() for flag in own}
    for key, value in values.items():
        if isinstance(value, dict) and key in flags:
            for inner in value:
                _check_key(inner, {*flags[key]}, f"[tool.{SECTION}.{key}]", source)
        else:
            _check_key(key, {*every, *flags, *OTHER_KEYS, *DATA_KEYS}, f"[tool.{SECTION}]", source)
    digests = values.get("trusted", [])
    if not isinstance(digests, list) or not all(isinstance(digest, str) for digest in digests):
        raise UsageError(f"trusted in {_shown(source)} is not a list of strings.", hint='trusted = ["<sha256>"]')


def _check_key(key: str, known: set[str], section: str, source: Path) -> None:
    if key in ONE_CALL_ONLY:
        raise UsageError(
            f"{key} in {_shown(source)}: it holds for one call.", hint=f"give --{key} on the command line instead"
        )
    if key not in known:
        near = get_close_matches(key, sorted(known - ONE_CALL_ONLY), n=1, cutoff=0.0)
        raise UsageError(
            f"unknown key {visible(key)!r} in {section} of {_shown(source)}.", hint=f"nearest: {', '.join(near)}"
        )


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


def _shown(path: Path) -> str:
    try:
        return visible(str(path.relative_to(Path.cwd())))
    except ValueError:
        return visible(str(path))
