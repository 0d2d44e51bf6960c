"""A single safetensors file: its header at once, each tensor by one positional read when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fromage_cli.checkpoints.checkpoint import Contents, Span
from fromage_cli.checkpoints.formats.safetensors_header import Header, read_header
from fromage_cli.checkpoints.names.steps import step_in_metadata
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.checkpoints.storage.stored_tensor import contiguous_tensor

if TYPE_CHECKING:
    import torch


def read_safetensors(path: Path) -> Contents:
    """Read the header of a safetensors file."""
    header = read_header(path)
    return Contents(
        format="safetensors",
        entries=header.entries,
        read=lambda name: read_tensor(header, name),
        metadata=header.metadata,
        step=step_in_metadata(header.metadata),
        spans={name: Span(header.version, *ends) for name, ends in header.spans.items()},
    )


def read_tensor(header: Header, name: str) -> torch.Tensor:
    """Read one tensor's bytes into new memory; raises InputError when the file has changed."""
    entry, begin = header.entries[name], header.spans[name][0]
    source = Source(header.version.path, header.version.size, header.version)
    return contiguous_tensor(entry.dtype, entry.shape, lambda at, view: source.read_into(begin + at, view)).read()
