"""Files that a batch can be read from: named tensors, arrays, and tokens; nothing in them is ever executed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromage_cli.checkpoints.formats.content import kind_of
from fromage_cli.checkpoints.formats.npz_file import read_npz
from fromage_cli.checkpoints.formats.torch_file import load
from fromage_cli.checkpoints.nested.candidates import DICTIONARY_LEVELS
from fromage_cli.checkpoints.pickles.allowance import Repetition, repeated
from fromage_cli.checkpoints.pickles.pickled_names import verdict
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor
from fromage_cli.errors import InputError, UnsafeError, UsageError
from fromage_cli.problem.user_code.named_code import first_line

BATCH_INFLATION = 128
"""How many times its own size a compressed archive may become: data compress better than weights."""
AGAIN = "Write or copy it again."


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """All of it at once: what is mapped changes with the file, and ends the process where the file is cut short."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(path.read_bytes()))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a complete safetensors file: {first_line(error)}.", AGAIN) from error


def _read_npz(path: Path) -> Any:
    """The arrays of an archive; unnamed ones (`numpy.savez(file, x, y)`) as a tuple in their order."""
    with _errors_about_batch(path, "a complete .npz archive"):
        archive = read_npz(path, BATCH_INFLATION)
        arrays = {name: archive.read(name) for name in archive.entries}
    if archive.notes:
        raise InputError(f"{path}: {archive.notes[0]}", "Save plain numbers only.")
    unnamed = [f"arr_{index}" for index in range(len(arrays))]
    return tuple(arrays[name] for name in unnamed) if set(arrays) == set(unnamed) else arrays


def _read_torch(path: Path) -> Any:
    """What torch.save wrote: containers, plain values, tensors and arrays; of anything else, nothing."""
    with _errors_about_batch(path, "a complete .pt file"):
        kind = kind_of(path)
        if kind not in ("torch", "torch-legacy"):
            raise InputError(f"it is {kind}.")
        loaded = load(Source.of_file(path), kind)
        if any(verdict(named) != "allowed" for named in loaded.names):
            raise _unsafe(path)
        return _read(loaded.root, Repetition())


def _read(node: Any, repetition: Repetition, depth: int = 0) -> Any:
    """The same pytree with every tensor read from its file."""
    if isinstance(node, StoredTensor):
        return node.read()
    if not isinstance(node, dict | list | tuple):
        return node
    if depth > DICTIONARY_LEVELS:
        raise repeated()
    held: Any = repetition.look(node)
    if isinstance(node, dict):
        return {name: _read(value, repetition, depth + 1) for name, value in held.items()}
    return type(node)(_read(value, repetition, depth + 1) for value in held)


@contextmanager
def _errors_about_batch(path: Path, expected: str) -> Iterator[None]:
    """What the readers of checkpoints find wrong, said of a batch."""
    try:
        yield
    except UnsafeError as error:
        raise _unsafe(path) from error
    except InputError as error:
        raise InputError(f"{path} is not {expected}: {error.message}", error.hint or AGAIN) from error


def _unsafe(path: Path) -> UnsafeError:
    return UnsafeError(
        f"{path} holds pickled objects other than tensors and plain containers. They are never executed.",
        "Save a dict of tensors, as .safetensors or with torch.save.",
    )


TOKENS = ".bin"
"""The extension of a file of tokens."""
READERS: Mapping[str, Callable[[Path], Any]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".pt": _read_torch,
    ".pth": _read_torch,
}


def read_tokens(path: Path, length: int | None, sequences: int | None, seed: int) -> dict[str, Tensor]:
    """Sequences at seeded places of a file of uint16 tokens: x = tokens[:T], y = tokens[1:T+1]  # (sequences, T)."""
    if length is None or sequences is None or length < 1 or sequences < 1:
        raise UsageError(
            f"--batch {path} is a file of tokens: it needs --seq-len and --sequences, both at least 1.",
            "Give both, for example --seq-len 256 --sequences 16.",
        )
    if path.stat().st_size % 2:
        raise InputError(
            f"{path} has an odd number of bytes, but a token is two bytes (uint16).",
            "Write the tokens again as uint16.",
        )
    count = path.stat().st_size // 2
    if count < length + 1:
        raise InputError(
            f"{path} holds {count} tokens; --seq-len {length} needs at least {length + 1}.",
            "Lower --seq-len, or give a file with more tokens.",
        )
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(count - length, (sequences,), generator=generator).tolist()
    drawn = [np.fromfile(path, "<u2", length + 1, offset=2 * start) for start in starts]
    if min(map(len, drawn)) <= length:
        raise InputError(f"{path} became shorter while it was read.", AGAIN)
    rows = torch.from_numpy(np.stack(drawn).astype(np.int64))  # (sequences, T + 1)
    return {"x": rows[:, :-1].contiguous(), "y": rows[:, 1:].contiguous()}
