"""A checkpoint's tensors put into a model, name by name, or refused with what does not fit; for good or for a while."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fromage_cli import ranks
from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.storage.peculiarities import remedy
from fromage_cli.counting import counted, first_names
from fromage_cli.errors import MismatchError, NotFiniteError
from fromage_cli.problem.graphs.network import class_name
from fromage_cli.problem.networks.hugging_face_weights import as_transformers_reads, may_be_missing
from fromage_cli.problem.networks.layers import TrainableTensor, plain_name, unwrapped
from fromage_cli.problem.networks.weight_names import Match, is_computed, match_names, missing_names, names_error
from fromage_cli.shards import is_sharded, own_part, rows_of, spread_as

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint

_FLOATING = {"float16", "bfloat16", "float32", "float64"}


def load_weights(model: nn.Module, checkpoint: "Checkpoint") -> tuple[str, ...]:
    """Copy a checkpoint's tensors into the model, one at a time, and return what the user should know.

    Names must agree, exactly or after one common first component (`model.`, `net.`, …) is added or removed; a model of
    transformers takes what that library reads into it, and leaves the rest. Of tied parameters one name is enough. A
    model on the meta device gets its memory here.

    Raises MismatchError (names, shapes or kinds of number do not fit) and NumericalError (NaN or infinity in a weight).
    """
    model = unwrapped(model)
    expected = _expected(model)
    given, checkpoint = checkpoint, as_transformers_reads(model, checkpoint)
    match = match_names(expected, checkpoint.entries)
    tolerated = tuple(name for name in match.unexpected if is_computed(name, checkpoint.entries[name].shape))
    missing = [  # of a sharded tensor there is no value that could stay
        name
        for name in missing_names(expected, match)
        if is_sharded(expected[name]) or not may_be_missing(model, name, expected[name])
    ]
    unexpected = [name for name in match.unexpected if name not in tolerated]
    if missing or (unexpected and checkpoint is given):
        raise names_error(checkpoint, expected, missing, unexpected)
    _check_entries(checkpoint, expected, match)
    _leave_meta(model, match)
    _copy(_expected(model), checkpoint, match)
    present = {id(expected[name]) for name in match.stored}
    kept = [name for name, value in expected.items() if id(value) not in present]
    ignored = f"Ignored {listed(tolerated)}: the model computes these buffers itself." if tolerated else ""
    left = f"The checkpoint lacks {listed(kept)}. The model's own values stay." if kept else ""
    unused = f"Left out {counted(len(unexpected), 'tensor')} that {class_name(model)} does not have"
    unused = f"{unused}: {first_names(unexpected)}." if unexpected else ""
    return tuple(filter(None, (match.note, ignored, left, unused)))


@contextmanager
def other_weights(model: nn.Module, other: "Checkpoint") -> Iterator[tuple[dict[str, Tensor], tuple[str, ...]]]:
    """Loads another checkpoint's tensors into a model and puts everything back bit for bit, however the block ends.

    Yields the model's own tensors by name, and what the user should know of the other weights. Tied tensors occur once,
    under the first of their names. What the block takes out of that dictionary it puts back itself, and so lets its
    memory go. Raises MismatchError and NumericalError as `load_weights` does.
    """
    model = unwrapped(model)
    kept: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in _expected(model).items():
        if id(value) not in seen:
            kept[name] = value.detach().clone()
            seen.add(id(value))
    try:
        yield kept, (*other.notes, *load_weights(model, other))
    finally:
        held = _expected(model)
        with torch.no_grad():
            for name, value in kept.items():
                held[name].copy_(value)


def weight_reader(model: nn.Module, checkpoint: "Checkpoint") -> Callable[[TrainableTensor], Tensor]:
    """What reads a tensor of the model from the checkpoint again, as `load_weights` put it there."""
    checkpoint = as_transformers_reads(unwrapped(model), checkpoint)
    stored = match_names(_expected(unwrapped(model)), checkpoint.entries).stored

    def read(tensor: TrainableTensor) -> Tensor:
        own = _read(checkpoint, _stored_name(tensor, stored), tensor.parameter).to(own_part(tensor.parameter.detach()))
        return spread_as(tensor.parameter, own) if is_sharded(tensor.parameter) else own

    return read


def stored_names(model: nn.Module, checkpoint: "Checkpoint", tensors: Iterable[TrainableTensor]) -> dict[str, str]:
    """What tensors of the model, into which the checkpoint was loaded, are called there; by their name in the model.

    A tensor that is made of several, or of a part of one, has the model's name.
    """
    translated = as_transformers_reads(unwrapped(model), checkpoint)
    stored = match_names(_expected(unwrapped(model)), translated.entries).stored
    names = {tensor.name: _stored_name(tensor, stored) for tensor in tensors}
    return names if translated is checkpoint else {name: translated.stored_names[at] for name, at in names.items()}


def remade_names(model: nn.Module, checkpoint: "Checkpoint", names: Iterable[str]) -> list[str]:
    """Those of the stored tensors named that transformers merges or splits into the model's."""
    translated = as_transformers_reads(unwrapped(model), checkpoint)
    kept = set(checkpoint.entries if translated is checkpoint else translated.stored_names.values())
    return [name for name in names if name not in kept]


def _stored_name(tensor: TrainableTensor, stored: Mapping[str, str]) -> str:
    return next(stored[name] for name in (tensor.name, *tensor.aliases) if name in stored)


def _expected(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and persistent buffers under their names, ties as one object under several names."""
    modules = dict(model.named_modules(remove_duplicate=False))
    held = model.state_dict(keep_vars=True).items()
    return {plain_name(name, modules): value for name, value in held if isinstance(value, Tensor)}


def _check_entries(checkpoint: "Checkpoint", expected: Mapping[str, Tensor], match: Match) -> None:
    """Refuse shapes that differ, and numbers that are not floating where the model's are."""
    pairs = [(name, expected[name], checkpoint.entries[stored]) for name, stored in match.stored.items()]
    lazy = [name for name, value, _ in pairs if torch.nn.parameter.is_lazy(value)]
    if lazy:
        raise MismatchError(
            f"{lazy[0]!r} has no shape yet: the model has lazy layers.", "Run the model once in the factory."
        )
    shapes = [
        f"{name}: model {list(value.shape)}, checkpoint {list(entry.shape)}"
        for name, value, entry in pairs
        if tuple(value.shape) != tuple(entry.shape)
    ]
    if shapes:
        raise MismatchError(
            "\n".join([f"{checkpoint.place} does not fit the model: {len(shapes)} shapes differ.", *shapes[:3]]),
            "Check --model-arg.",
            shapes,
        )
    kinds = [
        f"{name}: {entry.dtype}"
        for name, value, entry in pairs
        if (value.is_floating_point() or value.is_complex())
        and entry.dtype not in _FLOATING
        and not (value.is_complex() and entry.dtype.startswith("complex"))
    ]
    if kinds:
        raise MismatchError(
            f"Weights are stored as another kind of number than the model has ({len(kinds)} in all): "
            f"{'; '.join(kinds[:3])}.",
            remedy(kinds),
            kinds,
        )


def _leave_meta(model: nn.Module, match: Match) -> None:
    """Give memory to everything on the meta device; ties stay ties.

    Raises MismatchError for a buffer whose value neither the model nor the checkpoint knows.
    """
    known = {id(tensor) for name, tensor in _expected(model).items() if name in match.stored}
    made: dict[int, Tensor] = {}
    for path, module in model.named_modules():
        for name, value in [*module._parameters.items(), *module._buffers.items()]:
            if value is None or not value.is_meta:
                continue
            if id(value) not in made:
                if id(value) not in known and name != "num_batches_tracked":
                    full_name = f"{path}.{name}".lstrip(".")
                    raise MismatchError(
                        f"The model is on the meta device, and the checkpoint holds no values for {full_name}.",
                        "Build the model on the CPU in the factory.",
                    )
                # not empty_like: of a tensor on the meta device it imports torch's symbolic shapes for half a second
                memory = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
                trained = isinstance(value, nn.Parameter)
                made[id(value)] = nn.Parameter(memory, value.requires_grad) if trained else memory.zero_()
            setattr(module, name, made[id(value)])


def _read(checkpoint: "Checkpoint", stored: str, like: Tensor) -> Tensor:
    """A stored tensor; of one that is spread over ranks this rank's rows."""
    if not is_sharded(like) or not like.dim():
        return checkpoint.tensor(stored)
    return checkpoint.rows(stored, *rows_of(like))


@torch.no_grad()
def _copy(expected: Mapping[str, Tensor], checkpoint: "Checkpoint", match: Match) -> None:
    """Copy tensor by tensor, so that never two whole models are held.

    Raises NumericalError, and MismatchError where the model ties what the checkpoint holds twice with different values.
    """
    targets = {stored: name for name, stored in match.stored.items()}
    filled: dict[int, str] = {}
    nonfinite: dict[str, int] = {}
    for stored in checkpoint.entries:
        if stored not in targets:
            continue
        value, tensor = own_part(expected[targets[stored]]), _read(checkpoint, stored, expected[targets[stored]])
        key = id(expected[targets[stored]])
        if key in filled:
            if not torch.equal(value, tensor.to(value)):
                tied = f"{filled[key]!r} and {stored!r}"
                raise MismatchError(
                    f"The model ties {tied}, but the checkpoint holds different values for them.",
                    "Build the model without tied weights.",
                )
            continue
        value.copy_(tensor)
        filled[key] = stored
        weight = isinstance(expected[targets[stored]], nn.Parameter) or stored.endswith(
            ("running_mean", "running_var")
        )  # no mask
        # what is not finite would show in the sum, which needs no memory
        if weight and (value.is_floating_point() or value.is_complex()) and not bool(value.sum().isfinite()):
            nonfinite[stored] = int((~value.isfinite()).sum())  # none where only the sum was too large
    found = {stored: expected[name] for stored, name in sorted(targets.items())}
    _require_finite(checkpoint, found, nonfinite)


def _require_finite(checkpoint: "Checkpoint", found: Mapping[str, Tensor], own: Mapping[str, int]) -> None:
    """Raise NotFiniteError where entries are NaN or infinite; `own`: how many this rank has read, by stored name."""
    spread = {stored: own.get(stored, 0) for stored, tensor in found.items() if is_sharded(tensor) and tensor.dim()}
    counts: dict[str, float] = dict(own)
    if spread:  # each rank has read rows of its own
        counts |= zip(spread, ranks.current().sums(list(spread.values())), strict=True)
    nonfinite = [f"{name}: {int(counts[name])} of {found[name].numel()}" for name in found if counts.get(name)]
    if nonfinite:
        raise NotFiniteError(
            f"{checkpoint.place} holds NaN or infinity in {counted(len(nonfinite), 'tensor')}: "
            f"{'; '.join(nonfinite[:3])}.",
            "Take an earlier checkpoint. fromage-diag inspect shows which tensors are affected.",
            nonfinite,
        )
