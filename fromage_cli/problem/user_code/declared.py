"""What lies beside a checkpoint: `fromage.toml` and safetensors metadata, read as data and never as code."""

import difflib
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.configuration_file import FILES, SECTION, read_configuration
from fromage_cli.errors import InputError, UnsafeError, UsageError
from fromage_cli.optimizers.settings import Given
from fromage_cli.problem.user_code.forms import DATA_FILES, parse_specification
from fromage_cli.theory.schedules import SHAPES

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
    schedule: str | None = None
    """One of SHAPES."""
    warmup_steps: int | None = None
    total_steps: int | None = None
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
    folders = list(
        dict.fromkeys(place if place.is_dir() else place.parent for place in (opened, path) if place is not None)
    )
    declared = _from_metadata(metadata, folders[0], trust)
    for source in (folder / name for folder in folders for name in FILES):
        try:
            table = read_configuration(source) if source.is_file() else None
        except OSError as error:
            raise InputError(f"{source} cannot be read: {error.strerror}.", "Correct its permissions.") from error
        if table is not None:
            keys = {("learning-rate" if key == "lr" else key).replace("-", "_"): key for key in table.values}
            read = {
                key: _value(key, table.values[name], source.parent, source.name, trust) for key, name in keys.items()
            }
            stray = ", ".join(map(brief, table.outside))
            note = f"{source.name} beside the checkpoint has [tool.{SECTION}]; {stray} outside of it is left aside"
            return replace(declared, **read, source=source, notes=(note,) if table.outside else ())
    return declared


def _from_metadata(metadata: Mapping[str, str], folder: Path, trust: bool) -> Declared:
    """The declarations among a checkpoint's metadata; other programs' uses of the same words are passed over."""
    read: dict[str, Any] = {}
    for key in metadata.keys() & (_KEYS - {"model"}):
        text = metadata[key]
        value: Any = text
        with suppress(ValueError, RecursionError):  # what is no number is refused below, as the text that it is
            if key == "betas" and "," in text and not text.lstrip().startswith("["):
                value = json.loads(f"[{text}]".lower())
            elif key in ("residual", "betas"):
                value = json.loads(text.lower())
            elif key in ("learning_rate", "weight_decay", "momentum", *_COUNTS):
                value = float(text)
        try:
            read[key] = _value(key, value, folder, "the checkpoint's metadata", trust)
        except (UsageError, InputError):
            if key in ("activation", "residual", "norm"):
                raise
    return Declared(**read)


def _value(key: str, value: Any, folder: Path, where: str, trust: bool) -> Any:
    """One declared value, checked; paths made absolute."""
    if key not in _KEYS:
        near = difflib.get_close_matches(key, sorted(_KEYS), 1, 0.4)
        known = f"Did you mean {near[0]!r}? " if near else ""
        allowed = f"A file beside the checkpoint may set: {', '.join(sorted(_KEYS - {'model'}))}."
        raise UsageError(f"Unknown key {brief(key)} in {where} ({folder}).", known + allowed)
    if key in _CHECKS:
        check, expected, convert = _CHECKS[key]
        if not check(value):
            raise UsageError(f"{where}: {key} = {brief(value)}; expected {expected}.", f"Correct {key} in {folder}.")
        return convert(value)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where}: {key} = {brief(value)} is not a text.", f'Write {key} = "…".')
    code = parse_specification(value)
    if key == "model" or (code is not None and not (key == "batch" and _is_data(value))):
        if not trust:
            raise UnsafeError(
                f"{where} sets {key} = {value!r}: a file beside a checkpoint may hold data only.",
                f"If you trust it, pass --trust, or name the code yourself: --{key} {value}.",
            )
        return f"{(folder / code.module).absolute()}:{code.name}" if code is not None and code.is_file else value
    if key == "batch":
        return _batch_path(value, folder, where, trust)
    if value not in BUILT_IN_LOSSES:
        raise UsageError(f"{where}: unknown loss {brief(value)}.", f"Built in are: {', '.join(BUILT_IN_LOSSES)}.")
    return value


def _is_data(value: str) -> bool:
    """Whether a batch's name ends as a data file's does; nothing else in it can then make it code."""
    return Path(value).suffix.lower() in DATA_FILES


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


_KEYS = frozenset(field.name for field in fields(Declared)) - {"source", "notes"}
_COUNTS = ("steps_per_epoch", "warmup_steps", "total_steps")
_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str, Callable[[Any], Any]]] = {
    "activation": (lambda value: value in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}", str),
    "residual": (lambda value: isinstance(value, bool), "true or false", bool),
    "norm": (lambda value: value in NORMS, f"one of {', '.join(NORMS)}", str),
    "mode": (lambda value: value in MODES, f"one of {', '.join(MODES)}", str),
    "learning_rate": (lambda value: _is_number(value) and value > 0, "a number above 0", float),
    "weight_decay": (lambda value: _is_number(value) and value >= 0, "a number, 0 or above", float),
    "momentum": (lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 to below 1", float),
    "betas": (
        lambda value: isinstance(value, list) and len(value) == 2 and all(_is_number(b) and 0 <= b < 1 for b in value),
        "two numbers from 0 to below 1, as [0.9, 0.999]",
        lambda value: tuple(map(float, value)),
    ),
    "schedule": (lambda value: value in SHAPES, f"one of {', '.join(SHAPES)}", str),
    **dict.fromkeys(
        _COUNTS, (lambda value: _is_number(value) and value > 0 and value == int(value), "a whole number above 0", int)
    ),
}
"""What is true of a key's value, what was expected where it is not, and what the value is read as."""
