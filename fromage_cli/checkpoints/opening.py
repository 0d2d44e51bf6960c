"""From a path to a Checkpoint: find the weights, recognise them, read their structure, strip wrapper prefixes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from fromage_cli.checkpoints.checkpoint import Checkpoint, Contents
from fromage_cli.checkpoints.content import SUPPORTED, kind_of
from fromage_cli.checkpoints.directory import own_weights
from fromage_cli.checkpoints.files import quoted, status_of
from fromage_cli.checkpoints.npz_file import read_npz
from fromage_cli.checkpoints.prefixes import strip_prefixes
from fromage_cli.checkpoints.safetensors_file import read_safetensors
from fromage_cli.checkpoints.series import highest_step
from fromage_cli.checkpoints.sharded import is_index, read_sharded
from fromage_cli.checkpoints.steps import step_in_name, step_of_directory
from fromage_cli.checkpoints.torch_file import read_torch
from fromage_cli.errors import InputError, UsageError


def open_checkpoint(path: str | Path, key: str | None = None) -> Checkpoint:
    """Open a file or a directory; a directory of steps gives its highest complete step, and a note says so.

    `key` is the dotted path of the nested dictionary to take from a PyTorch file.
    Raises InputError for what cannot be read, UnsafeError for what must not be, UsageError for a wrong key.
    """
    given = Path(path)
    weights, step, notes = _find_weights(given)
    contents = _read(weights, key)
    if not contents.entries:
        raise InputError(
            f"{quoted(weights)} holds no tensors.", hint="It may hold only settings; name the weights file."
        )
    stripped = strip_prefixes(contents.entries)
    shorter = {stored: name for name, stored in stripped.names.items()}
    return Checkpoint(
        path=given,
        format=contents.format,
        step=contents.step if contents.step is not None else step,
        entries={name: replace(contents.entries[stored], name=name) for name, stored in stripped.names.items()},
        metadata=contents.metadata,
        stripped=stripped.prefixes,
        key=contents.key,
        notes=(*notes, *contents.notes, *stripped.notes),
        tied=tuple(tuple(shorter[stored] for stored in group) for group in contents.tied),
        optimizer=contents.optimizer,
        weights=weights,
        stored_names=stripped.names,
        read=contents.read,
        spans={shorter[stored]: span for stored, span in contents.spans.items()},
    )


def _find_weights(path: Path) -> tuple[Path, int | None, Iterable[str]]:
    """Return the weights file, the step that names tell, and the notes on the choice."""
    status_of(path)
    if not path.is_dir():
        return path, _step_in_names(path), ()
    if weights := own_weights(path):
        return weights, _step_in_names(weights), ()
    step, notes = highest_step(path)
    return step.weights, step.number if step.counts == "step" else None, notes


def _read(path: Path, key: str | None) -> Contents:
    if is_index(path):
        _refuse_key(key, path)
        return read_sharded(path, _read_file)
    return _read_file(path, key)


def _read_file(path: Path, key: str | None = None) -> Contents:
    kind = kind_of(path)
    if kind in {"torch", "torch-legacy"}:
        return read_torch(path, kind, key)
    _refuse_key(key, path)
    if kind == "safetensors":
        return read_safetensors(path)
    if kind == "npz":
        return read_npz(path)
    raise InputError(f"{quoted(path)} is JSON, but neither an index of shards nor a checkpoint.", hint=SUPPORTED)


def _refuse_key(key: str | None, path: Path) -> None:
    if key is not None:
        raise UsageError(
            f"--key {key!r} picks a dictionary inside a PyTorch file; {quoted(path)} has no dictionaries.",
            hint="Leave --key out.",
        )


def _step_in_names(weights: Path) -> int | None:
    step = step_in_name(weights.stem)
    return step if step is not None else step_of_directory(weights.absolute().parent.name)
