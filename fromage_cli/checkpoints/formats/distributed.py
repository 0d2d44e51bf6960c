"""A torch.distributed.checkpoint directory: FSDP2, torchtitan and others, whatever the layout of their shards.

Its metadata say what lies where; tensors are put together when they are asked for, without a process group.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from fromage_cli.checkpoints.checkpoint import Contents, entries_of
from fromage_cli.checkpoints.formats.distributed_metadata import ByteRange, SavedItem, damaged, read_metadata
from fromage_cli.checkpoints.formats.pieces import Box, PiecedTensor
from fromage_cli.checkpoints.formats.sharded import check_present
from fromage_cli.checkpoints.formats.torch_file import load_part
from fromage_cli.checkpoints.names.steps import first_step
from fromage_cli.checkpoints.nested.candidates import Candidate
from fromage_cli.checkpoints.nested.choosing import ANY, Choice, ancestors, choose
from fromage_cli.checkpoints.nested.optimizers import find_optimizer
from fromage_cli.checkpoints.nested.remainder import beside_weights
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState
from fromage_cli.checkpoints.storage.files import FileVersion, incomplete, quoted
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor, stored_number
from fromage_cli.errors import InputError

TRAINER_DICTIONARIES = ("train_state", "trainer_state", "training_state")
"""Dictionaries beside the weights in which trainers keep their step."""


def read_distributed(path: Path, choice: Choice = ANY) -> Contents:
    """Read the metadata of a distributed checkpoint and choose the dictionary that is the weights."""
    root = _read_tree(path)
    chosen, note = choose(path.parent, root, choice)
    around = list(ancestors(root, chosen.path))
    trainers = [node[name] for node in around for name in TRAINER_DICTIONARIES if isinstance(node.get(name), Mapping)]
    tensors = cast("Mapping[str, PiecedTensor]", chosen.tensors)
    return Contents(
        format="torch-distributed",
        entries=entries_of(tensors),
        find=tensors.__getitem__,
        step=first_step([*around, *trainers], lambda value: stored_number(_with_objects(value))),
        key=".".join(chosen.path) or None,
        notes=(note,) if note else (),
        read_optimizer=lambda: find_optimizer(root, chosen.path, choice.optimizer, _with_objects),
        describe_rest=lambda: beside_weights(_with_settings(root, chosen), chosen.path, chosen.left_out),
    )


def load_distributed_optimizer(path: Path, key: str | None = None) -> OptimizerState | None:
    """Return the optimizer's state in a distributed checkpoint, which may hold nothing else; `key`: its place."""
    return find_optimizer(_read_tree(path), key=key, read=_with_objects)


def check_shards(path: Path, items: Mapping[str, SavedItem]) -> None:
    """Raise InputError when a shard is missing or shorter than the metadata say, or holds two things in one place."""
    ranges: dict[Path, list[tuple[int, int]]] = {}
    for item in items.values():
        for piece in item.pieces:
            stored = piece.bytes
            ranges.setdefault(stored.file, []).append((stored.begin, stored.begin + stored.length))
    check_present(path, ranges)
    for file, ends in ranges.items():
        ends.sort()
        if any(end > begin for (_, end), (begin, _) in pairwise(ends)):
            raise damaged(path, f"two entries use the same bytes of {file.name!r}")
        if (size := FileVersion.of(file).size) < (end := ends[-1][1]):
            raise incomplete(file, end, size)


def _read_tree(path: Path) -> dict[str, Any]:
    """Return the nested dictionary that was saved, in which tensors know their pieces and objects are byte ranges."""
    items = read_metadata(path)
    check_shards(path, items)
    root: dict[Any, Any] = {}
    for name, item in items.items():
        node = root
        for step in item.path[:-1]:
            node = node.setdefault(step, {})
            if not isinstance(node, dict):
                raise damaged(path, f"{name!r} lies inside a tensor")
        if item.path[-1] in node:
            raise damaged(path, f"{name!r} occurs twice")
        if item.dtype is None:
            node[item.path[-1]] = item.pieces[0].bytes
        else:
            boxes = [Box(piece.offsets, piece.sizes, partial(_find_piece, piece.bytes, name)) for piece in item.pieces]
            whole = f"Tensor {name!r} in {quoted(path.parent)}"
            node[item.path[-1]] = PiecedTensor(item.dtype, item.shape, boxes=boxes, name=whole)
    return {str(name): value for name, value in root.items()}


def _load(stored: ByteRange) -> Any:
    """Return what torch.save wrote into some bytes of a shard."""
    loaded = load_part(stored.file, stored.begin, stored.length)
    return loaded.read() if isinstance(loaded, StoredTensor) else loaded


def _find_piece(stored: ByteRange, name: str) -> StoredTensor:
    """Return a piece of the named tensor, not yet read."""
    piece = load_part(stored.file, stored.begin, stored.length)
    if not isinstance(piece, StoredTensor):
        raise damaged(stored.file, f"a {type(piece).__name__} stands where a piece of {name!r} should be")
    return piece


def _with_settings(root: Mapping[Any, Any], chosen: Candidate) -> dict[Any, Any]:
    """Return the same with what stands beside weights and optimizer read, where it can be read."""
    read = dict(root)
    for name, value in root.items():
        aside = str(name) != chosen.path[0] if chosen.path else str(name) in chosen.left_out
        if aside and "optim" not in str(name).lower():
            with suppress(InputError):
                read[name] = stored_number(_with_objects(value))
    return read


def _with_objects(value: Any) -> Any:
    """Return the same value with the objects in it read; tensors stay where they are."""
    if isinstance(value, Mapping):
        return {name: _with_objects(member) for name, member in value.items()}
    return _load(value) if isinstance(value, ByteRange) else value
