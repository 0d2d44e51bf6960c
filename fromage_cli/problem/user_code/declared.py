"""What lies beside a checkpoint: `fromage.toml` and safetensors metadata, read as data and never as code."""

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.configuration_file import FILES, SECTION, ConfigurationTable, read_configuration
from fromage_cli.errors import FromageError, InputError, UnsafeError, UsageError
from fromage_cli.optimizers.rule import RULES
from fromage_cli.optimizers.settings import Given
from fromage_cli.problem.user_code.forms import BUILT_IN_LOSSES, DATA_FILES, parse_specification
from fromage_cli.theory.schedules import SHAPES

ACTIVATIONS = ("relu", "leaky_relu", "tanh", "gelu", "silu", "sigmoid", "elu", "identity")
NORMS = ("none", "layernorm", "batchnorm", "rmsnorm")
MODES = ("auto", "train", "eval")


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
    optimizer_name: str | None = None
    """One of RULES, under the key `optimizer`; the settings below are then for it alone."""
    learning_rate: float | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    betas: tuple[float, float] | None = None
    train_batch_size: int | None = None
    """Rows."""
    steps_per_epoch: int | None = None
    schedule: str | None = None
    """As `--schedule` takes it: one of SHAPES, or the absolute path of a table."""
    warmup_steps: int | None = None
    total_steps: int | None = None
    model: str | None = None
    """As `--model` takes it; only ever set under `--trust`."""
    source: Path | None = None
    """The file that was read; None when everything comes from the checkpoint's metadata, or nothing was declared."""
    notes: tuple[str, ...] = ()
    """What in that file was not used, and why."""
    foreign: tuple[str, ...] = ()
    """Its keys that say nothing here, such as flags of a project and code."""
    faults: Mapping[str, FromageError] = field(default_factory=dict)
    """By field, why what stands there cannot be taken."""

    @property
    def optimizer(self) -> Given:
        """What it says of the optimizer."""
        return Given(
            self.optimizer_name, self.learning_rate, self.momentum, betas=self.betas, weight_decay=self.weight_decay
        )

    def check(self, *names: str) -> None:
        """Raise the fault of the first of these fields that has one; to be called where they are about to be used."""
        for name in names:
            if name in self.faults:
                raise self.faults[name]


def declared_beside(
    path: Path, metadata: Mapping[str, str], *, opened: Path | None = None, trust: bool = False
) -> Declared:
    """Read the declarations in a checkpoint's metadata and in the configuration file beside it, which wins.

    `path` is what the user gave, `opened` the file that was chosen inside it; the directory of the latter is looked
    at first. No other directory is.

    What is wrong there makes nothing fail that does without it. `Declared.check` raises UsageError (wrong value) and
    InputError (a named batch is missing). It raises UnsafeError (code, or a path that leaves the directory, unless
    `trust`).
    """
    folders = list(
        dict.fromkeys(place if place.is_dir() else place.parent for place in (opened, path) if place is not None)
    )
    declared = _from_metadata(metadata, folders[0], trust)
    for source in (folder / name for folder in folders for name in FILES):
        try:
            table = read_configuration(source) if source.is_file() else None
        except (OSError, UsageError) as error:
            fault = (
                error
                if isinstance(error, UsageError)
                else InputError(f"{source} cannot be read: {error.strerror}.", "Check its owner and its mode (ls -l).")
            )
            note = f"{source.name} beside the checkpoint is not used: {fault.message}"
            return replace(declared, source=source, notes=(note,), faults=dict.fromkeys(_NEEDED, fault))
        if table is not None:
            return _from_table(declared, table, source, trust)
    return declared


def _from_table(declared: Declared, table: ConfigurationTable, source: Path, trust: bool) -> Declared:
    """What a configuration file declares, beside what is known without it."""
    read: dict[str, Any] = {}
    faults: dict[str, FromageError] = {}
    keys = {name: _OTHER_NAMES.get(name, name).replace("-", "_") for name in table.values}
    for name, key in keys.items():
        try:
            if key in _KEYS:
                read[key] = _value(key, table.values[name], source.parent, source.name, trust)
        except FromageError as fault:
            faults[key] = fault
    wrong = [fault for fault in faults.values() if not isinstance(fault, UnsafeError)]
    foreign = [key for key in keys.values() if key not in _KEYS and key != "ckpt"]
    foreign += [key for key, fault in faults.items() if isinstance(fault, UnsafeError)]
    stray = ", ".join(map(brief, table.outside))
    outside = f"{source.name} beside the checkpoint has [tool.{SECTION}]; {stray} outside of it is not used"
    return replace(
        declared,
        **read,
        source=source,
        notes=(*([outside] if table.outside else ()), *(f"not used: {fault.message}" for fault in wrong)),
        foreign=tuple(name for name, key in keys.items() if key in foreign),
        faults={**{key: fault for key, fault in declared.faults.items() if key not in read}, **faults},
    )


def _from_metadata(metadata: Mapping[str, str], folder: Path, trust: bool) -> Declared:
    """The declarations among a checkpoint's metadata; other programs' uses of the same words are passed over."""
    read: dict[str, Any] = {}
    faults: dict[str, FromageError] = {}
    for key in metadata.keys() & (_KEYS - {"model", "optimizer_name"}):
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
        except FromageError as fault:
            if key in ("activation", "residual", "norm") or isinstance(fault, UnsafeError):
                faults[key] = fault
    return Declared(**read, faults=faults)


def _value(key: str, value: Any, folder: Path, where: str, trust: bool) -> Any:
    """One declared value, checked; paths made absolute."""
    if key in _CHECKS:
        value = value.lower() if isinstance(value, str) else value
        check, expected, convert = _CHECKS[key]
        if not check(value):
            raise UsageError(
                f"{where}: {key.removesuffix('_name')} = {brief(value)}; expected {expected}.",
                f"Correct it in {folder}.",
            )
        return convert(value)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where}: {key} = {brief(value)} is not a string.", f'Write {key} = "…".')
    if key == "schedule":
        return value.lower() if value.lower() in SHAPES else _file_inside(key, value, folder, where, trust)
    code = parse_specification(value)
    if key == "model" or (code is not None and not (key == "batch" and _is_data(value))):
        if not trust:
            raise UnsafeError(
                f"{where} sets {key} = {value!r}, but a file beside a checkpoint may only name data.",
                f"Give --{key} {value} yourself, or pass --trust for this call. fromage-diag trust covers "
                "only checkpoints in other directories.",
            )
        return f"{(folder / code.module).absolute()}:{code.name}" if code is not None and code.is_file else value
    if key == "batch":
        return _file_inside(key, value, folder, where, trust)
    if value.lower() not in BUILT_IN_LOSSES:
        raise UsageError(f"{where}: unknown loss {brief(value)}.", f"Built-in losses: {', '.join(BUILT_IN_LOSSES)}.")
    return value.lower()


def _is_data(value: str) -> bool:
    """Whether a batch's name ends as a data file's does; nothing else in it can then make it code."""
    return Path(value).suffix.lower() in DATA_FILES


def _file_inside(key: str, value: str, folder: Path, where: str, trust: bool) -> str:
    """The absolute path of a batch, or of a schedule's table, which lies in the folder; anywhere under `trust`."""
    path = folder / value
    outside = "://" in value or Path(value).is_absolute() or ".." in Path(value).parts
    try:
        inside, present = path.resolve().is_relative_to(folder.resolve()), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a null character
        raise InputError(
            f"{where} sets {key} = {brief(value)}, which is not the path of a file.", f"Pass --{key}."
        ) from error
    if not trust and (outside or not inside):
        raise UnsafeError(
            f"{where} sets {key} = {value!r}, which lies outside {folder}.",
            f"If you trust it, give --{key} {value} yourself, or pass --trust.",
        )
    if key == "batch" and not _is_data(value):
        raise UsageError(
            f"{where} sets batch = {value!r}; expected a file {', '.join(DATA_FILES)}.", "Convert it to one of these."
        )
    if not present:
        shapes = f"; expected {', '.join(SHAPES)}, or a table in it" if key == "schedule" else ""
        raise InputError(
            f"{where} sets {key} = {brief(value)}, but there is no such file in {folder}{shapes}.", f"Pass --{key}."
        )
    return str(path.absolute())


def _is_number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) <= sys.float_info.max  # of a whole number too, which can be larger than any float


_KEYS = frozenset(entry.name for entry in fields(Declared)) - {"source", "notes", "foreign", "faults"}
_NEEDED = ("batch", "activation", "residual", "norm")
"""What a file that cannot be read may have held, and nothing else stands in for."""
_OTHER_NAMES = {"lr": "learning-rate", "optimizer": "optimizer-name"}
"""What keys are called above."""
_COUNTS = ("train_batch_size", "steps_per_epoch", "warmup_steps", "total_steps")
_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str, Callable[[Any], Any]]] = {
    "activation": (lambda value: value in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}", str),
    "residual": (lambda value: isinstance(value, bool), "true or false", bool),
    "norm": (lambda value: value in NORMS, f"one of {', '.join(NORMS)}", str),
    "mode": (lambda value: value in MODES, f"one of {', '.join(MODES)}", str),
    "optimizer_name": (lambda value: value in tuple(RULES), f"one of {', '.join(RULES)}", str),
    "learning_rate": (lambda value: _is_number(value) and value > 0, "a number above 0", float),
    "weight_decay": (lambda value: _is_number(value) and value >= 0, "a number, 0 or above", float),
    "momentum": (lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 to below 1", float),
    "betas": (
        lambda value: isinstance(value, list) and len(value) == 2 and all(_is_number(b) and 0 <= b < 1 for b in value),
        "two numbers from 0 to below 1, as [0.9, 0.999]",
        lambda value: tuple(map(float, value)),
    ),
    **dict.fromkeys(
        _COUNTS, (lambda value: _is_number(value) and value > 0 and value == int(value), "a whole number above 0", int)
    ),
    "warmup_steps": (
        lambda value: _is_number(value) and value >= 0 and value == int(value),
        "a whole number, 0 or above",
        int,
    ),
}
"""Of each key: what holds for its value, what was expected otherwise, what it is read as."""
