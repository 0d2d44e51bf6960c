"""A torch.distributed.checkpoint directory: FSDP2, torchtitan and others, whatever the layout of their shards.

Its metadata say what lies where; tensors are put together when they are asked for, without a process group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fromage_cli.checkpoints.checkpoint import Contents, TensorEntry
from fromage_cli.checkpoints.formats.distributed_metadata import (
    Metadata,
    Place,
    Stored,
    damaged,
    missing_shards,
    read_metadata,
)
from fromage_cli.checkpoints.formats.pieces import Box, PiecedTensor
from fromage_cli.checkpoints.formats.torch_file import load_part
from fromage_cli.checkpoints.names.library_files import METADATA
from fromage_cli.checkpoints.names.steps import STEP_NAMES, step_in_metadata
from fromage_cli.checkpoints.nested.candidates import DEEPEST
from fromage_cli.checkpoints.nested.choosing import ANY, Choice, ancestors, choose
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState
from fromage_cli.checkpoints.optimizers.saved_optimizer import GROUPS, KEYS, STATE, optimizer_state
from fromage_cli.checkpoints.storage.files import FileVersion, quoted
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor
from fromage_cli.errors import FromageError, InputError

if TYPE_CHECKING:
    import torch

TRAINING = ("train_state", "trainer_state", "training_state")
"""Dictionaries beside the weights in which trainers keep their step."""


@dataclass(frozen=True)
class _Unread:
    """An object that is not a tensor, until it is asked for."""

    place: Place


def is_metadata(path: Path) -> bool:
    """Return whether a file is the metadata of a distributed checkpoint, by its name."""
    return path.name == METADATA


def read_distributed(path: Path, choice: Choice = ANY) -> Contents:
    """Read the metadata of a distributed checkpoint and choose the dictionary that is the weights."""
    metadata = read_metadata(path)
    check_shards(path, metadata)
    root = _tree(path, metadata)
    try:
        chosen, note = choose(root, choice)
    except FromageError as error:
        raise type(error)(f"{quoted(path.parent)}: {error.message}", error.hint, error.details) from None
    around = list(ancestors(root, chosen.path))
    tensors = cast("Mapping[str, PiecedTensor]", chosen.tensors)
    return Contents(
        format="torch-distributed",
        entries={name: TensorEntry(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()},
        read=lambda name: tensors[name].read(),
        step=_step(around),
        key=".".join(chosen.path) or None,
        notes=(note,) if note else (),
        read_optimizer=lambda: _optimizer(around),
    )


def check_shards(path: Path, metadata: Metadata) -> None:
    """Raise InputError when a shard is missing or shorter than the metadata say, or holds two things in one place."""
    if absent := missing_shards(path, metadata.files):
        raise absent
    places: dict[Path, list[tuple[int, int]]] = {}
    for item in metadata.items.values():
        for piece in item.pieces:
            place = piece.place
            places.setdefault(place.file, []).append((place.begin, place.begin + place.length))
    for file, stretches in places.items():
        stretches.sort()
        if any(end > begin for (_, end), (begin, _) in pairwise(stretches)):
            raise damaged(path, f"two things lie in the same bytes of {file.name!r}")
        if (size := FileVersion.of(file).size) < (end := stretches[-1][1]):
            raise InputError(
                f"{quoted(file)} is incomplete: expects {end} bytes, has {size}.",
                hint="It was cut off while it was written or copied; take an earlier checkpoint or copy it again.",
            )


def load_distributed_optimizer(path: Path) -> OptimizerState | None:
    """The optimizer's state in a distributed checkpoint, which may hold nothing else."""
    metadata = read_metadata(path)
    check_shards(path, metadata)
    root = _tree(path, metadata)
    return _optimizer([root, {KEYS[0]: root}])


def _tree(path: Path, metadata: Metadata) -> dict[str, Any]:
    """The nested dictionary that was saved, with tensors that know their pieces and objects not yet read."""
    root: dict[Any, Any] = {}
    for name, item in metadata.items.items():
        if len(item.path) > 2 * DEEPEST:
            raise damaged(path, f"{name!r} lies {len(item.path)} dictionaries deep")
        node = root
        for step in item.path[:-1]:
            node = node.setdefault(step, {})
            if not isinstance(node, dict):
                raise damaged(path, f"{name!r} lies inside of a tensor")
        if item.path[-1] in node:
            raise damaged(path, f"{name!r} is there twice")
        node[item.path[-1]] = _leaf(path, name, item)
    return {str(name): value for name, value in root.items()}


def _leaf(path: Path, name: str, item: Stored) -> PiecedTensor | _Unread:
    if item.dtype is None:
        return _Unread(item.pieces[0].place)
    boxes = [Box(piece.offsets, piece.sizes, _reader(piece.place, name)) for piece in item.pieces]
    return PiecedTensor(item.dtype, item.shape, boxes=boxes, name=f"Tensor {name!r} in {quoted(path.parent)}")


def _reader(place: Place, name: str) -> Any:
    def read() -> torch.Tensor:
        import torch

        piece = _load(place)
        if not isinstance(piece, torch.Tensor):
            raise damaged(place.file, f"a {type(piece).__name__} is where a piece of {name!r} should be")
        return piece

    return read


def _load(place: Place) -> Any:
    """What torch.save wrote into some bytes of a shard."""
    loaded = load_part(place.file, place.begin, place.length)
    return loaded.read() if isinstance(loaded, StoredTensor) else loaded


def _step(around: list[Mapping[str, Any]]) -> int | None:
    """The step in the dictionaries around the weights, or in the trainer's own beside them."""
    beside = [node[name] for node in around for name in TRAINING if isinstance(node.get(name), Mapping)]
    for node in (*around, *beside):
        found = {name: _number(node[name]) for name in STEP_NAMES if name in node}
        if (step := step_in_metadata(found)) is not None:
            return step
    return None


def _number(value: Any) -> Any:
    """A whole number, from a tensor too; None for anything else."""
    if isinstance(value, PiecedTensor):
        value = value.item() if value.numel() == 1 and "int" in value.dtype else None
    value = _load(value.place) if isinstance(value, _Unread) else value
    return value if type(value) is int else None


def _optimizer(around: list[Mapping[str, Any]]) -> OptimizerState | None:
    for node in around:
        for key in KEYS:
            if isinstance(saved := node.get(key), Mapping) and (state := optimizer_state([{key: _resolved(saved)}])):
                return state
    return None


def _resolved(saved: Mapping[Any, Any]) -> dict[str, Any]:
    """An optimizer's dictionary with its settings read, and its groups as a list; tensors stay where they are."""
    resolved = {str(name): _value(value) for name, value in saved.items() if name != STATE}
    if isinstance(groups := resolved.get(GROUPS), dict):
        resolved[GROUPS] = [groups[index] for index in sorted(groups, key=lambda index: (len(str(index)), str(index)))]
    return {**resolved, **({STATE: saved[STATE]} if STATE in saved else {})}


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _value(member) for name, member in value.items()}
    return _load(value.place) if isinstance(value, _Unread) else value
