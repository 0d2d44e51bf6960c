"""A torch.distributed.checkpoint in safetensors files, as HuggingFaceStorageWriter leaves it before it is consolidated.

shard-RANK-model-FILE-of-FILES.safetensors, each with DCP_SHARDING_INFO {name: {"saved_offsets": […]}} in its metadata:
where the piece in this file begins in the whole tensor.
Source: torch/distributed/checkpoint/_hf_utils.py, PyTorch 2.8 to 2.13.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.checkpoint import Contents, Copy, Replica, Span, entries_of
from fromage_cli.checkpoints.formats.pieces import Box, PiecedTensor
from fromage_cli.checkpoints.formats.safetensors_file import find_tensor, invalid, read_header
from fromage_cli.checkpoints.names.library_files import SHARD_OF_RANK
from fromage_cli.checkpoints.storage.files import names_in, quoted
from fromage_cli.checkpoints.storage.stored_tensor import are_whole_numbers
from fromage_cli.counting import counted
from fromage_cli.errors import InputError

SHARDING_INFO = "DCP_SHARDING_INFO"


def is_shard_of_rank(path: Path) -> bool:
    """Return whether a file is one rank's part of such a checkpoint, by its name."""
    return bool(SHARD_OF_RANK.match(path.name))


def read_ranks(path: Path) -> Contents:
    """Read the headers of all ranks' files, of which `path` is one, and put their tensors together.

    Raises InputError where the pieces of a tensor leave a gap.
    """
    files = files_of_ranks(path)
    tensors: dict[str, PiecedTensor] = {}
    places: dict[tuple[str, Box], list[Span]] = {}
    for header in map(read_header, files):
        file = header.version.path
        try:
            table: Any = json.loads(header.metadata.get(SHARDING_INFO, ""))
        except (ValueError, RecursionError) as error:
            raise invalid(file, f"its {SHARDING_INFO} is not JSON") from error
        for name, entry in header.entries.items():
            saved = table.get(name) if isinstance(table, Mapping) else None
            offsets = saved.get("saved_offsets") if isinstance(saved, Mapping) else None
            if not are_whole_numbers(offsets) or len(offsets) != len(entry.shape):
                raise invalid(file, f"its {SHARDING_INFO} does not say where the piece of {name!r} begins")
            box = Box(tuple(offsets), entry.shape, partial(find_tensor, header, name))
            ends = tuple(begin + size for begin, size in zip(box.offsets, box.sizes, strict=True))
            whole = tensors.setdefault(name, PiecedTensor(entry.dtype, ends, name=f"{name!r} in {quoted(path.parent)}"))
            if whole.dtype != entry.dtype or len(whole.shape) != len(ends):
                raise invalid(file, f"tensor {name!r} is of another kind in another rank's file")
            spans = places.setdefault((name, box), [])
            spans.append(Span(header.version, *header.spans[name]))
            whole.boxes = whole.boxes if len(spans) > 1 else (*whole.boxes, box)
            whole.shape = tuple(map(max, whole.shape, ends))  # it is as large as its pieces reach
    return Contents(
        format="safetensors-distributed",
        entries=entries_of({name: tensor.check() for name, tensor in tensors.items()}),
        find=tensors.__getitem__,
        notes=(f"Put together from {counted(len(files), 'file')}. How many there were at the save is not recorded.",),
        find_replicas=lambda: tuple(
            Replica(
                name,
                tuple(Copy(span.tensor(tensors[name].dtype, box.sizes), (span.version.path,)) for span in spans),
            )
            for (name, box), spans in places.items()
            if len(spans) > 1
        ),
    )


def files_of_ranks(path: Path) -> list[Path]:
    """Return the files of all ranks in the directory of one; InputError where a rank is missing."""
    ranks = {name: found for name in sorted(names_in(path.parent)) if (found := SHARD_OF_RANK.match(name))}
    present = {int(found[1]) for found in ranks.values()}
    if absent := sorted(set(range(1, max(present) + 1)) - present):
        raise InputError(
            f"{quoted(path.parent)} is incomplete: the files of {counted(len(absent), 'rank')} are "
            f"missing, first that of rank {absent[0]}.",
            hint="Copy the missing files again: shard-RANK-model-….safetensors.",
        )
    return [path.with_name(name) for name in ranks]
