"""What lies beside a checkpoint: `fromage.toml` and safetensors metadata, read as data and never as code."""

import difflib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.configuration_file import FILES, SECTION, ConfigurationTable, read_configuration
from fromage_cli.errors import InputError, UnsafeError, UsageError
from fromage_cli.optimizers.settings import Given
from fromage_cli.problem.user_code.forms import DATA_FILES, parse_specification

ACTIVATIONS = ("relu", "leaky_relu", "tanh", "gelu", "silu", "sigmoid", "elu", "identity")
NORMS = ("none", "layernorm", "batchnorm", "rmsnorm")
MODES = ("auto", "train", "eval")
BUILT_IN_LOSSES = ("auto", "cross-entropy", "mse", "bce", "output")


@dataclass(frozen=True)
class Declared:
    """What the checkpoint's own directory says about the problem; None where it says nothing."""

    activation: str | None = None
    residual: bool | None = None
    norm: str | None = None
    batch: str | None = None
    """As `--batch` takes it: an absolute path, or under `--trust` code."""
    loss: str | None = None
    """As `--loss` takes it: a built-in name, or under `--trust` code."""
    mode: str | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    betas: tuple[float, float] | None = None
    steps_per_epoch: int | None = None
    model: str | None = None
    """As `--model` takes it; only ever set under `--trust`."""
    source: Path | None = None
    """The file that was read; None when everything comes from the checkpoint's metadata, or nothing was declared."""
    notes: tuple[str, ...] = ()
    """What in that file was left aside."""

    @property
    def optimizer(self) -> Given:
        """What it says of the optimizer."""
        return Given(None, self.learning_rate, self.momentum, betas=self.betas, weight_decay=self.weight_decay)


def declared_beside(
    path: Path, metadata: Mapping[str, str], *, opened: Path | None = None, trust: bool = False
) -> Declared:
    """Read the declarations in a checkpoint's metadata and in the configuration file beside it, which wins.

    `path` is what the user gave, `opened` the file that was chosen inside it; the directory of the latter is looked
    at first. No other directory is.

    Raises UsageError (unknown key, wrong value), UnsafeError (code, or a path that leaves the directory) unless
    `trust`, and InputError (a named batch is missing).
    """
    folders = list(dict.fromkeys(_folder(place) for place in (opened, path) if place is not None))
    declared = _from_metadata(metadata, folders[0], trust)
    for folder in folders:
        for source in (folder / name for name in FILES):
            if (table := _table(source)) is None:
                continue
            keys = {("learning-rate" if key == "lr" else key).replace("-", "_"): key for key in table.values}
            read = {key: _value(key, table.values[name], folder, source.name, trust) for key, name in keys.items()}
            return replace(declared, **read, source=source, notes=_outside_notes(source, table))
    return declared


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _table(source: Path) -> ConfigurationTable | None:
    if not source.is_file():
        return None
    try:
        return read_configuration(source)
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}.", "Correct its permissions.") from error


def _outside_notes(source: Path, table: ConfigurationTable) -> tuple[str, ...]:
    """What is to be said of keys that stand beside the table they belong in."""
    if not table.outside:
        return ()
    keys = ", ".join(map(brief, table.outside))
    return (f"{source.name} beside the checkpoint has [tool.{SECTION}]; {keys} outside of it is left aside",)


def _from_metadata(metadata: Mapping[str, str], folder: Path, trust: bool) -> Declared:
    """The declarations among a checkpoint's metadata; other programs' uses of the same words are passed over."""
    read: dict[str, Any] = {}
    for key in metadata.keys() & (_KEYS - {"model"}):
        try:
            read[key] = _value(key, _from_text(key, metadata[key]), folder, "the checkpoint's metadata", trust)
        except (UsageError, InputError):
            if key in ("activation", "residual", "norm"):
                raise
    return Declared(**read)


def _from_text(key: str, text: str) -> Any:
    if key == "betas" and "," in text and not text.lstrip().startswith("["):
        text = f"[{text}]"
    if key in ("residual", "learning_rate", "weight_decay", "momentum", "betas", "steps_per_epoch"):
        try:
            return json.loads(text.lower()) if key in ("residual", "betas") else float(text)
        except (ValueError, RecursionError):
            return text
    return text


def _value(key: str, value: Any, folder: Path, where: str, trust: bool) -> Any:
    """One declared value, checked; paths made absolute."""
    if key not in _KEYS:
        near = difflib.get_close_matches(key, sorted(_KEYS), 1, 0.4)
        known = f"Did you mean {near[0]!r}? " if near else ""
        allowed = f"A file beside the checkpoint may set: {', '.join(sorted(_KEYS - {'model'}))}."
        raise UsageError(f"Unknown key {brief(key)} in {where} ({folder}).", known + allowed)
    if key in ("batch", "loss", "model"):
        if not isinstance(value, str) or not value:
            raise UsageError(f"{where}: {key} = {brief(value)} is not a text.", f'Write {key} = "…".')
        return _named_thing(key, value, folder, where, trust)
    check, expected = _CHECKS[key]
    if not check(value):
        raise UsageError(f"{where}: {key} = {brief(value)}; expected {expected}.", f"Correct {key} in {folder}.")
    return tuple(map(float, value)) if key == "betas" else _number(key, value)


def _number(key: str, value: Any) -> Any:
    if key == "steps_per_epoch":
        return int(value)
    return float(value) if key in ("learning_rate", "weight_decay", "momentum") else value


def _named_thing(key: str, value: str, folder: Path, where: str, trust: bool) -> str:
    """A batch, loss or model: data or a built-in name, under `--trust` code as well."""
    code = parse_specification(value)
    if code is not None and not (key == "batch" and _is_data(value)):
        _refuse_code(key, value, where, trust)
        return str((folder / code.module).absolute()) + f":{code.name}" if code.is_file else value
    if key == "model":
        _refuse_code(key, value, where, trust)
        return value
    if key == "loss":
        if value not in BUILT_IN_LOSSES:
            raise UsageError(f"{where}: unknown loss {brief(value)}.", f"Built in are: {', '.join(BUILT_IN_LOSSES)}.")
        return value
    return _batch_path(value, folder, where, trust)


def _is_data(value: str) -> bool:
    """Whether a batch's name ends as a data file's does; nothing else in it can then make it code."""
    return Path(value).suffix.lower() in DATA_FILES


def _refuse_code(key: str, value: str, where: str, trust: bool) -> None:
    if not trust:
        raise UnsafeError(
            f"{where} sets {key} = {value!r}: a file beside a checkpoint may hold data only.",
            f"If you trust it, pass --trust, or name the code yourself: --{key} {value}.",
        )


def _batch_path(value: str, folder: Path, where: str, trust: bool) -> str:
    path = folder / value
    outside = "://" in value or Path(value).is_absolute() or ".." in Path(value).parts
    try:
        inside, present = path.resolve().is_relative_to(folder.resolve()), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a null character
        raise InputError(f"{where} sets batch = {brief(value)}, which leads to no file.", "Pass --batch.") from error
    if not trust and (outside or not inside):
        raise UnsafeError(
            f"{where} sets batch = {value!r}, which lies outside {folder}.",
            f"If you trust it, pass --trust, or name it yourself: --batch {value}.",
        )
    if not _is_data(value):
        raise UsageError(f"{where} sets batch = {value!r}; expected a file {', '.join(DATA_FILES)}.", "Convert it.")
    if not present:
        raise InputError(f"{where} sets batch = {value!r}, but there is no such file in {folder}.", "Pass --batch.")
    return str(path.absolute())


def _is_number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) <= sys.float_info.max  # of a whole number too, which can be larger than any float


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_number(item) and 0 <= item < 1 for item in value)


_KEYS = frozenset(field.name for field in fields(Declared)) - {"source", "notes"}
_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "activation": (lambda value: value in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}"),
    "residual": (lambda value: isinstance(value, bool), "true or false"),
    "norm": (lambda value: value in NORMS, f"one of {', '.join(NORMS)}"),
    "mode": (lambda value: value in MODES, f"one of {', '.join(MODES)}"),
    "learning_rate": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "weight_decay": (lambda value: _is_number(value) and value >= 0, "a number, 0 or above"),
    "momentum": (lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 to below 1"),
    "betas": (_is_pair, "two numbers from 0 to below 1, as [0.9, 0.999]"),
    "steps_per_epoch": (
        lambda value: _is_number(value) and value > 0 and value == int(value),
        "a whole number above 0",
    ),
}
