"""Files that a batch can be read from: named tensors, arrays, and tokens; nothing in them is ever executed."""

import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromage_cli.errors import InputError, UnsafeError, UsageError
from fromage_cli.problem.named_code import first_line


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file: {first_line(error)}.", "Write or copy it again."
        ) from error


def _read_npz(path: Path) -> Any:
    """The arrays of an archive; unnamed ones (`numpy.savez(file, x, y)`) as a tuple in their order."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, zipfile.BadZipFile, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a whole .npz archive: {first_line(error)}.", "Write or copy it again."
        ) from error
    except ValueError as error:
        if zipfile.is_zipfile(path) and "pickle" in str(error):
            raise _unsafe(path) from error
        raise InputError(f"{path} is not a whole .npz archive.", "Write or copy it again.") from error
    unnamed = [f"arr_{index}" for index in range(len(arrays))]
    return tuple(arrays[name] for name in unnamed) if set(arrays) == set(unnamed) else arrays


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = "allowed global" in str(error) or "Unsupported class" in str(error)
        with path.open("rb") as file:
            bare = file.read(1) == _PICKLE
        if refused or bare:
            raise _unsafe(path) from error
        raise InputError(f"{path} is not a whole .pt file.", "Write it again with torch.save.") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise InputError(
            f"{path} is not a whole .pt file: {first_line(error)}.", "Write it again with torch.save."
        ) from error


def _unsafe(path: Path) -> UnsafeError:
    return UnsafeError(
        f"{path} holds pickled objects other than tensors and plain containers; they are never executed.",
        "Save a dict of tensors, as .safetensors or with torch.save.",
    )


_PICKLE = b"\x80"
"""First byte of a bare pickle."""
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
            "For example --seq-len 256 --sequences 16.",
        )
    if path.stat().st_size % 2:
        raise InputError(f"{path} has an odd number of bytes; tokens are two bytes each (uint16).", "Write it again.")
    count = path.stat().st_size // 2
    if count < length + 1:
        raise InputError(f"{path} holds {count} tokens; --seq-len {length} needs at least {length + 1}.", "Shorten it.")
    tokens = np.memmap(path, dtype="<u2", mode="r")
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(count - length, (sequences,), generator=generator).tolist()
    drawn = np.stack([tokens[place : place + length + 1] for place in places]).astype(np.int64)
    rows = torch.from_numpy(drawn)  # (sequences, T + 1)
    return {"x": rows[:, :-1].contiguous(), "y": rows[:, 1:].contiguous()}
