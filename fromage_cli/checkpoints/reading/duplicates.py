"""Tensors of one checkpoint that hold the same bytes under several names."""

import hashlib
import math
from collections.abc import Mapping

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.reading.arrays import stored_chunks
from fromage_cli.checkpoints.storage.files import READ_BLOCK
from fromage_cli.theory.magnitudes import Magnitudes

SAME_SIZE = 1e-6
"""Up to this relative difference, entries count as equal in size: a constant, as in fresh gains and biases."""


def find_duplicates(checkpoint: Checkpoint, found: Mapping[str, Magnitudes]) -> tuple[tuple[str, ...], ...]:
    """Return groups of names whose tensors agree bit by bit; constant tensors and those known to be tied are no news.

    Only tensors whose magnitudes agree are read again.
    """
    copies = {name for group in checkpoint.tied for name in group[1:]}
    alike: dict[object, list[str]] = {}
    for name, magnitudes in found.items():
        full = magnitudes.largest * math.sqrt(magnitudes.elements)  # the norm, were all entries of one size
        varied = magnitudes.elements > 1 and magnitudes.norm < full * (1 - SAME_SIZE)  # nan equals nothing
        if name not in copies and varied:
            entry = checkpoint.entries[name]
            alike.setdefault((entry.dtype, entry.shape, magnitudes), []).append(name)
    groups: dict[object, list[str]] = {}
    for kind, names in alike.items():
        for name in names if len(names) > 1 else ():
            digest = hashlib.blake2b()
            for stored in stored_chunks(checkpoint, name, READ_BLOCK):
                digest.update(stored.data)
            groups.setdefault((kind, digest.digest()), []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)
