"""Which tensor of a checkpoint goes where in a model, by name."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from fromage_cli.checkpoints.names.naming import SPELLED_OUT, strip_prefixes
from fromage_cli.errors import MismatchError

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint

_COMPUTED = re.compile(r"(^|\.)(num_batches_tracked|position_ids|masked_bias|inv_freq|original_inv_freq|_extra_state)$")
"""Buffers that a model computes for itself: a checkpoint may have or lack them."""
_CAUSAL_MASK = re.compile(r"(^|\.)(mask|causal_mask|attn_mask|tril|(attn|attention|self_attn)\.bias)$")
"""Names of causal masks; a tensor with such a name is one when it is square, which no bias is."""
_WEIGHT_NORM = re.compile(r"([^.]+)_([gv])$")
"""Names that the older `weight_norm` gives to the magnitude and the direction of a tensor; torch reads both."""


LEAST_SIMILARITY = 0.3
"""Of a name that is shown as the nearest: two programs may give one layer names that have few letters in common."""


@dataclass(frozen=True)
class Match:
    """Which stored tensor goes where."""

    stored: Mapping[str, str]
    """Name in the model -> name in the checkpoint."""
    unexpected: tuple[str, ...]
    note: str


def match_names(expected: Mapping[str, Tensor], stored: Mapping[str, object]) -> Match:
    """The renaming with the most matches; names as they are win a draw."""
    candidates: list[tuple[Callable[[str], str], str]] = [(lambda name: name, "")]
    shorter = strip_prefixes(expected).names
    note = "Put the wrappers' prefixes back into the checkpoint's names: the model's own have them too."
    candidates.append((lambda name: shorter.get(name, name), note))
    for prefix in _first_components(stored):
        note = f"Removed the prefix {prefix!r} from the checkpoint's names to match the model."
        candidates.append((lambda name, prefix=prefix: name.removeprefix(prefix), note))  # type: ignore[misc]
    for prefix in _first_components(expected):
        note = f"Added the prefix {prefix!r} to the checkpoint's names to match the model."
        candidates.append((lambda name, prefix=prefix: prefix + name, note))  # type: ignore[misc]
    matches = []
    for rename, note in candidates:
        found: dict[str, str] = {}
        for name in stored:
            target = rename(name)
            if target not in expected:
                target = _WEIGHT_NORM.sub(lambda old: f"parametrizations.{old[1]}.original{'gv'.index(old[2])}", target)
            if target in expected:
                found.setdefault(target, name)
        taken = set(found.values())
        matches.append(Match(found, tuple(name for name in stored if name not in taken), note))
    return max(matches, key=lambda match: len(match.stored))


def _first_components(names: Iterable[str]) -> list[str]:
    return sorted({name.split(".", 1)[0] + "." for name in names if "." in name})


def is_computed(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a name and a shape are those of a buffer that models compute for themselves."""
    square = len(shape) >= 2 and shape[-1] == shape[-2] and all(size == 1 for size in shape[:-2])
    return bool(_COMPUTED.search(name)) or bool(_CAUSAL_MASK.search(name) and square)


def missing_names(expected: Mapping[str, Tensor], match: Match) -> list[str]:
    """Names of the model that the checkpoint lacks, without ties whose partner it has and without computed buffers."""
    present = {id(expected[name]) for name in match.stored}
    return [
        name
        for name, value in expected.items()
        if name not in match.stored
        and id(value) not in present
        and (isinstance(value, nn.Parameter) or not is_computed(name, tuple(value.shape)))
    ]


def names_error(
    checkpoint: "Checkpoint", expected: Mapping[str, Tensor], missing: list[str], unexpected: list[str]
) -> MismatchError:
    """What to tell of names that do not fit: the first ones, each with the nearest."""
    lines = [f"{checkpoint.place} does not fit the model: {len(missing)} missing, {len(unexpected)} unexpected names."]
    pool = unexpected or list(checkpoint.entries)
    for name in missing[:SPELLED_OUT]:
        near = difflib.get_close_matches(name, pool, 1, LEAST_SIMILARITY)
        lines.append(f"missing {name!r}" + (f"; nearest in the checkpoint {near[0]!r}" if near else ""))
    if not missing:
        for name in unexpected[:SPELLED_OUT]:
            near = difflib.get_close_matches(name, list(expected), 1, LEAST_SIMILARITY)
            lines.append(f"unexpected {name!r}" + (f"; nearest in the model {near[0]!r}" if near else ""))
    details = [f"missing: {name}" for name in missing] + [f"unexpected: {name}" for name in unexpected]
    return MismatchError("\n".join(lines), "Check --model, --model-arg and --key.", details)
