"""The diagnostic batch: a pytree of tensors that share their first dimension, from a file or the user's function."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fromage_cli.errors import InputError, MismatchError, NumericalError, UsageError
from fromage_cli.problem.data.batch_files import READERS, TOKENS, read_tokens
from fromage_cli.problem.data.pytrees import as_tensors, describe_shapes, in_precision, map_tensors, named_tensors
from fromage_cli.problem.user_code.named_code import check_arguments, named_code, seeded
from fromage_cli.problem.user_code.specification import load_named, parse_specification

BATCH_FORMS = (
    "a .safetensors, .npz or .pt file, tokens in a .bin file, or code as pkg.module:function or path/file.py:function"
)


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of data on which every quantity is measured."""

    data: Any
    """Any nesting of dicts, tuples and lists; its tensors share their first dimension, other leaves are left alone."""
    size: int
    """How many rows."""
    source: str
    """How the batch is named in output."""
    first: int = 0
    """The number of its first row among all that were loaded."""
    weight: float = 1.0
    """What its loss counts: 0 where a rank has no rows left, but must go through the network as the others do."""
    bound: "WeakKeyDictionary[nn.Module, tuple[Any, ...]]" = field(
        default_factory=WeakKeyDictionary, init=False, repr=False
    )
    """How the tensors reach the `forward` of each model that was called with them."""

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Batch":
        """Move every tensor, and cast the floating ones."""
        return replace(self, data=map_tensors(self.data, lambda tensor: in_precision(tensor.to(device), dtype)))

    def rows(self, start: int, stop: int) -> "Batch":
        """Rows start to stop of every tensor, as views."""
        stop = min(stop, self.size)
        data = map_tensors(self.data, lambda tensor: tensor[start:stop])
        return replace(self, data=data, size=stop - start, first=self.first + start)

    def seed(self, seed: int) -> int:
        """The seed of what is drawn for these rows: other rows draw other numbers, as batches of a training run do.

        It is not the seed itself, from which rows were often drawn: noise that equals its row would be no noise.
        """
        return zlib.crc32(f"{seed} {self.first}".encode())

    def reversed(self) -> "Batch":
        """The same rows from last to first."""
        return replace(self, data=map_tensors(self.data, lambda tensor: tensor.flip(0)))


def load_batches(
    spec: str,
    *,
    count: int = 1,
    spare: int = 0,
    sequence_length: int | None = None,
    sequences: int | None = None,
    seed: int = 0,
    allow_code: bool = True,
) -> list[Batch]:
    """Read batches from a file of named tensors, from a file of tokens, or from the user's function.

    More than one come from an iterator, or from as many draws of tokens: `count`, and behind them up to `spare` more
    where there are more.

    Raises InputError (missing, truncated, empty or unsupported) and UsageError (unknown form, missing length). Raises
    UnsafeError (pickled objects, code that may not run). Raises MismatchError where the function fails or first
    dimensions disagree, and NumericalError for NaN or infinity in it.
    """
    path = Path(spec).expanduser()
    reader = READERS.get(path.suffix.lower())
    if reader is None and path.suffix.lower() != TOKENS:
        if parse_specification(spec) is not None:
            return _call_function(spec, seed, allow_code, count, spare)
        if path.suffix == ".py":
            raise UsageError(f"--batch {spec!r} does not name a function.", f"Name it: {spec}:FUNCTION.")
        if path.exists():
            raise InputError(
                f"--batch {spec!r} has the extension {path.suffix!r}, which is not supported.", f"Give {BATCH_FORMS}."
            )
        raise UsageError(f"--batch {spec!r} is neither a file nor code.", f"Give {BATCH_FORMS}.")
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "is not a regular file" if path.exists() else "does not exist"
        raise InputError(f"--batch {spec!r} {what} (working directory {Path.cwd()}).", f"Give {BATCH_FORMS}.")
    if reader is None:
        draws = range(count + spare)
        return numbered([as_batch(read_tokens(path, sequence_length, sequences, seed + draw), spec) for draw in draws])
    _refuse_several(count, spec, "a file with one batch")
    return [as_batch(reader(path), spec)]


def numbered(batches: Sequence[Batch]) -> list[Batch]:
    """The batches with their rows counted on from one to the next."""
    starts = accumulate((batch.size for batch in batches), initial=0)
    return [replace(batch, first=start) for batch, start in zip(batches, starts, strict=False)]


def _refuse_several(count: int, spec: str, what: str) -> None:
    if count > 1:
        raise UsageError(
            f"--batches {count} needs an iterator of batches, but --batch {spec} is {what}.",
            "Let --batch name a function that returns a DataLoader, or leave --batches out.",
        )


def as_batch(data: Any, source: str) -> Batch:
    """Check a pytree and wrap it: at least one tensor, one first dimension, no empty batch, no NaN."""
    try:
        data = map_tensors(as_tensors(data), _plain)
        tensors = dict(named_tensors(data))
    except RecursionError as error:
        raise MismatchError(
            f"The batch from {source} is nested too deep, or contains itself.",
            "Return the tensors in a few dicts, tuples or lists.",
        ) from error
    if not tensors:
        raise InputError(
            f"The batch from {source} holds no tensors (it is a {type(data).__name__}).", f"Give {BATCH_FORMS}."
        )
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, source)
    sizes = {tensor.shape[0] for tensor in tensors.values()}
    if len(sizes) > 1:
        raise MismatchError(
            f"The tensors of the batch from {source} differ in their first dimension: {describe_shapes(data)}.",
            "The first dimension counts the rows. Repeat, split or drop the tensor that differs.",
            [f"{name}: {tuple(tensor.shape)}" for name, tensor in tensors.items()],
        )
    if sizes == {0}:
        raise InputError(f"The batch from {source} has no rows: {describe_shapes(data)}.", "Give at least one row.")
    return Batch(data, sizes.pop(), source)


def _plain(tensor: Tensor) -> Tensor:
    """A tensor in memory of its own, without graph, in a type that everything can be done with."""
    if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):
        return tensor.detach().to(torch.int64)
    narrow = tensor.is_floating_point() and tensor.itemsize == 1
    return tensor.detach().to(torch.float32 if narrow else tensor.dtype, copy=True)


def _check_tensor(name: str, tensor: Tensor, source: str) -> None:
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.device.type == "meta":
        raise InputError(f"{name} in the batch from {source} is not a dense tensor.", "Convert it with to_dense().")
    if tensor.ndim == 0:
        raise MismatchError(
            f"{name} in the batch from {source} has no dimension; the first dimension counts the rows.",
            "For one value of the whole batch pass a plain Python number.",
        )
    if tensor.is_floating_point():
        bad = int((tensor.isnan() | tensor.isposinf()).sum())  # -inf is an ordinary attention mask
        if bad:
            raise NumericalError(
                f"{name} in the batch from {source} has NaN or infinity in {bad} of {tensor.numel()} values.",
                "Clean the data: with these values the loss cannot be finite.",
            )


def _call_function(spec: str, seed: int, allow_code: bool, count: int, spare: int) -> list[Batch]:
    """What the user's function returns, or the first batches of the iterator or DataLoader that it returns."""
    with seeded(seed):
        named = load_named(spec, "--batch", allow_code=allow_code)
    with seeded(seed):  # again: whether the file had to be imported first must not matter
        if callable(named):
            check_arguments(named, (), {}, "--batch")
            with named_code(f"calling --batch {spec}"):
                named = named()
        if isinstance(named, Tensor | np.ndarray | Mapping | list | tuple):
            _refuse_several(count, spec, "one batch")
            return [as_batch(named, spec)]
        if not hasattr(named, "__iter__"):
            wrap = " Wrap it in a torch.utils.data.DataLoader." if hasattr(named, "__getitem__") else ""
            raise MismatchError(
                f"--batch {spec} gave a {type(named).__name__}; expected a batch or an iterator of batches.",
                f"Return tensors in dicts, tuples or lists, or an iterator over such batches.{wrap}",
            )
        with named_code(f"taking the first batch of {spec}"):
            taken = numbered([as_batch(data, spec) for data in islice(iter(named), count + spare)])
    if not taken:
        raise InputError(f"--batch {spec} gave an iterator without a batch.", "Check that its data set is not empty.")
    if len(taken) < count:
        raise InputError(
            f"--batch {spec} gave an iterator that ends after batch {len(taken)}, but --batches asks for {count}.",
            "Lower --batches.",
        )
    return taken
