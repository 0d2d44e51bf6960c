"""A checkpoint's tensors put into a model, name by name, or refused with what does not fit."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.problem.call import unwrapped
from fromage_cli.problem.layers import TrainableTensor

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint, TensorEntry

_COMPUTED = re.compile(r"(^|\.)(num_batches_tracked|position_ids|masked_bias|inv_freq|original_inv_freq|_extra_state)$")
"""Buffers that a model computes for itself: a checkpoint may have or lack them."""
_CAUSAL_MASK = re.compile(r"(^|\.)(mask|causal_mask|attn_mask|tril|(attn|attention|self_attn)\.bias)$")
"""Names of causal masks; a tensor with such a name is one when it is square, which no bias is."""
_WEIGHT_NORM = re.compile(r"([^.]+)_([gv])$")
"""Names that the older `weight_norm` gives to the magnitude and the direction of a tensor."""
_WIDTHS = {"float16", "bfloat16", "float32", "float64"}


@dataclass(frozen=True)
class _Match:
    """Which stored tensor goes where."""

    stored: Mapping[str, str]
    """Name in the model -> name in the checkpoint."""
    unexpected: tuple[str, ...]
    note: str


def load_weights(model: nn.Module, checkpoint: "Checkpoint", dtype: torch.dtype | None = None) -> tuple[str, ...]:
    """Copy a checkpoint's tensors into the model, one at a time, and return what the user should know.

    Names must agree, exactly or after one common first component (`model.`, `net.`, …) is added or removed. Of tied
    parameters one name is enough. A model on the meta device gets its memory here. `dtype` is given to every floating
    parameter and buffer first.

    Raises MismatchError (names, shapes or kinds of number do not fit) and NumericalError (NaN or infinity in a weight).
    """
    model = unwrapped(model)
    expected = _expected(model)
    match = _match(expected, checkpoint.entries)
    tolerated = tuple(name for name in match.unexpected if _is_computed(name, checkpoint.entries[name].shape))
    missing = _missing(expected, match)
    unexpected = [name for name in match.unexpected if name not in tolerated]
    if missing or unexpected:
        raise _names_error(checkpoint, expected, missing, unexpected)
    _check_entries(checkpoint, expected, match)
    if dtype is not None:
        model.to(dtype=dtype)
    _leave_meta(model, match)
    _copy(_expected(model), checkpoint, match)
    return tuple(filter(None, (match.note, *_notes(expected, match, tolerated))))


def weight_reader(model: nn.Module, checkpoint: "Checkpoint") -> Callable[[TrainableTensor], Tensor]:
    """What reads a tensor of the model from the checkpoint again, as `load_weights` put it there."""
    stored = _match(_expected(unwrapped(model)), checkpoint.entries).stored

    def read(tensor: TrainableTensor) -> Tensor:
        name = next(name for name in (tensor.name, *tensor.aliases) if name in stored)
        return checkpoint.tensor(stored[name]).to(tensor.parameter)

    return read


def _expected(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and persistent buffers under their names, ties as one object under several names."""
    return {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def _match(expected: Mapping[str, Tensor], stored: Mapping[str, object]) -> _Match:
    """The renaming with the most matches; names as they are win a draw."""
    candidates: list[tuple[Callable[[str], str], str]] = [(lambda name: name, "")]
    for prefix in _first_components(stored):
        note = f"Removed the prefix {prefix!r} from the checkpoint's names to match the model."
        candidates.append((lambda name, prefix=prefix: name.removeprefix(prefix), note))  # type: ignore[misc]
    for prefix in _first_components(expected):
        note = f"Added the prefix {prefix!r} to the checkpoint's names to match the model."
        candidates.append((lambda name, prefix=prefix: prefix + name, note))  # type: ignore[misc]
    matches = [_renamed(expected, stored, rename, note) for rename, note in candidates]
    return max(matches, key=lambda match: len(match.stored))


def _first_components(names: Iterable[str]) -> list[str]:
    return sorted({name.split(".", 1)[0] + "." for name in names if "." in name})


def _renamed(
    expected: Mapping[str, Tensor], stored: Mapping[str, object], rename: Callable[[str], str], note: str
) -> _Match:
    found: dict[str, str] = {}
    unexpected = []
    for name in stored:
        target = rename(name)
        target = target if target in expected else _parametrized(target)
        if target in expected and target not in found:
            found[target] = name
        else:
            unexpected.append(name)
    return _Match(found, tuple(unexpected), note)


def _parametrized(name: str) -> str:
    """What today's `weight_norm` calls a `weight_g` or `weight_v`, as torch reads them; other names unchanged."""
    return _WEIGHT_NORM.sub(lambda old: f"parametrizations.{old[1]}.original{'gv'.index(old[2])}", name)


def _is_computed(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a name and a shape are those of a buffer that models compute for themselves."""
    square = len(shape) >= 2 and shape[-1] == shape[-2] and all(size == 1 for size in shape[:-2])
    return bool(_COMPUTED.search(name)) or bool(_CAUSAL_MASK.search(name) and square)


def _missing(expected: Mapping[str, Tensor], match: _Match) -> list[str]:
    """Names of the model that the checkpoint lacks, without ties whose partner it has and without computed buffers."""
    present = {id(expected[name]) for name in match.stored}
    return [
        name
        for name, value in expected.items()
        if name not in match.stored
        and id(value) not in present
        and (isinstance(value, nn.Parameter) or not _is_computed(name, tuple(value.shape)))
    ]


def _names_error(
    checkpoint: "Checkpoint", expected: Mapping[str, Tensor], missing: list[str], unexpected: list[str]
) -> MismatchError:
    lines = [f"{checkpoint.path} does not fit the model: {len(missing)} missing, {len(unexpected)} unexpected names."]
    pool = unexpected or list(checkpoint.entries)
    for name in missing[:3]:
        near = difflib.get_close_matches(name, pool, 1, 0.3)
        lines.append(f"missing {name!r}" + (f"; nearest in the checkpoint {near[0]!r}" if near else ""))
    if not missing:
        for name in unexpected[:3]:
            near = difflib.get_close_matches(name, list(expected), 1, 0.3)
            lines.append(f"unexpected {name!r}" + (f"; nearest in the model {near[0]!r}" if near else ""))
    details = [f"missing: {name}" for name in missing] + [f"unexpected: {name}" for name in unexpected]
    return MismatchError("\n".join(lines), "Check --model, --model-arg and --key; -v lists every name.", details)


def _check_entries(checkpoint: "Checkpoint", expected: Mapping[str, Tensor], match: _Match) -> None:
    """Refuse shapes that differ, and numbers that are not floating where the model's are."""
    pairs = [(name, expected[name], checkpoint.entries[stored]) for name, stored in match.stored.items()]
    lazy = [name for name, value, _ in pairs if torch.nn.parameter.is_lazy(value)]
    if lazy:
        raise MismatchError(f"{lazy[0]!r} has no shape yet: the model has lazy layers.", "Run it once in the factory.")
    shapes = [
        f"{name}: model {list(value.shape)}, checkpoint {list(entry.shape)}"
        for name, value, entry in pairs
        if tuple(value.shape) != tuple(entry.shape)
    ]
    if shapes:
        raise MismatchError(
            "\n".join([f"{checkpoint.path} does not fit the model: {len(shapes)} shapes differ.", *shapes[:3]]),
            "Check --model-arg; -v lists every shape.",
            shapes,
        )
    kinds = [f"{name}: {entry.dtype}" for name, value, entry in pairs if not _same_kind(value, entry)]
    if kinds:
        raise MismatchError(
            f"{len(kinds)} weights are stored as numbers that the model does not have: {'; '.join(kinds[:3])}.",
            "Quantised weights cannot be measured: use the checkpoint they were made from, or dequantise it.",
            kinds,
        )


def _same_kind(value: Tensor, entry: "TensorEntry") -> bool:
    if value.is_complex():
        return entry.dtype.startswith("complex") or entry.dtype in _WIDTHS
    return not value.is_floating_point() or entry.dtype in _WIDTHS


def _leave_meta(model: nn.Module, match: _Match) -> None:
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
                        f"The model stands on the meta device, and nothing says what {full_name} holds.",
                        "Build the model on the processor in the factory.",
                    )
                made[id(value)] = _with_memory(value)
            setattr(module, name, made[id(value)])


def _with_memory(value: Tensor) -> Tensor:
    if isinstance(value, nn.Parameter):
        return nn.Parameter(torch.empty_like(value, device="cpu"), requires_grad=value.requires_grad)
    return torch.zeros_like(value, device="cpu")


@torch.no_grad()
def _copy(expected: Mapping[str, Tensor], checkpoint: "Checkpoint", match: _Match) -> None:
    """Copy tensor by tensor, so that never two whole models are held.

    Raises NumericalError, and MismatchError where the model ties what the checkpoint holds twice with different values.
    """
    places = {stored: name for name, stored in match.stored.items()}
    filled: dict[int, str] = {}
    nonfinite: list[str] = []
    for stored, tensor in checkpoint.items():
        if stored not in places:
            continue
        value = expected[places[stored]]
        if id(value) in filled:
            _check_tie(value, tensor, filled[id(value)], stored)
            continue
        value.copy_(tensor)
        filled[id(value)] = stored
        bad = _count_nonfinite(stored, value)
        if bad:
            nonfinite.append(f"{stored}: {bad} of {value.numel()}")
    if nonfinite:
        raise NumericalError(
            f"{len(nonfinite)} tensors of {checkpoint.path} hold NaN or infinity: {'; '.join(nonfinite[:3])}.",
            "Take an earlier checkpoint; fromage-diag inspect shows where it begins.",
            nonfinite,
        )


def _check_tie(value: Tensor, tensor: Tensor, first: str, second: str) -> None:
    if not torch.equal(value, tensor.to(value)):
        raise MismatchError(
            f"The model ties {first!r} and {second!r}, but the checkpoint holds different values for them.",
            "Build the model without tied weights.",
        )


def _count_nonfinite(name: str, value: Tensor) -> int:
    """How many values of a parameter or a running statistic are NaN or infinite; a mask may be."""
    weight = isinstance(value, nn.Parameter) or name.endswith(("running_mean", "running_var"))
    return int((~value.isfinite()).sum()) if weight and (value.is_floating_point() or value.is_complex()) else 0


def _notes(expected: Mapping[str, Tensor], match: _Match, tolerated: tuple[str, ...]) -> tuple[str, ...]:
    present = {id(expected[name]) for name in match.stored}
    kept = [name for name, value in expected.items() if id(value) not in present]
    ignored = f"Ignored {_some(tolerated)}: the model computes these buffers itself." if tolerated else ""
    left = f"The checkpoint lacks the buffers {_some(kept)}: the model's own values stay." if kept else ""
    return ignored, left


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
