"""Which tensor of a checkpoint goes where in a model, by name."""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
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
LEAST_SIMILARITY = 0.3
"""Of a name that is shown as the nearest: two programs may give one layer names that have few letters in common."""
MOST_COMPARED = 3000
"""Names among which the nearest is looked for, which takes half a second."""


@dataclass(frozen=True)
class Match:
    """Which stored tensor goes where."""

    stored: Mapping[str, str]
    """Name in the model -> name in the checkpoint."""
    unexpected: tuple[str, ...]
    note: str


def match_names(expected: Mapping[str, Tensor], stored: Mapping[str, object]) -> Match:
    """The renaming with the most matches; names as they are win a draw.

    Of the first components that could be removed, or added, only the best is tried: there may be as many as names.
    """
    candidates: list[tuple[Callable[[str], str], str]] = [(lambda name: name, "")]
    shorter = strip_prefixes(expected).names
    note = "Restored the wrappers' prefixes in the checkpoint's names: the model's names have them too."
    candidates.append((lambda name: shorter.get(name, name), note))
    old, new = set(map(_respelled, stored)), set(map(_respelled, expected))
    if removed := _best_prefix(old, new):
        note = f"Removed the prefix {removed!r} from the checkpoint's names to match the model."
        candidates.append((lambda name: name.removeprefix(removed), note))
    if added := _best_prefix(new, old):
        note = f"Added the prefix {added!r} to the checkpoint's names to match the model."
        candidates.append((lambda name: added + name, note))
    matches = []
    for rename, note in candidates:
        found: dict[str, str] = {}
        for name in stored:
            target = rename(name)
            target = target if target in expected else _respelled(target)
            if target in expected:
                found.setdefault(target, name)
        taken = set(found.values())
        matches.append(Match(found, tuple(name for name in stored if name not in taken), note))
    return max(matches, key=lambda match: len(match.stored))


def _best_prefix(names: Iterable[str], others: Container[str]) -> str:
    """The first component without which most of the names are among the others, with its dot; "" where none is."""
    counts: Counter[str] = Counter()
    for first, dot, rest in (name.partition(".") for name in names):
        counts[first + dot] += rest in others
    return min(counts, key=lambda prefix: (-counts[prefix], prefix)) if any(counts.values()) else ""


def _respelled(name: str) -> str:
    """The name that torch gives today to the magnitude or the direction of a tensor under the older `weight_norm`."""
    if not name.endswith(("_g", "_v")):
        return name
    owner, dot, leaf = name.rpartition(".")
    return f"{owner}{dot}parametrizations.{leaf[:-2]}.original{'gv'.index(leaf[-1])}"


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
    pool = (unexpected or list(checkpoint.entries))[:MOST_COMPARED]
    for name in missing[:SPELLED_OUT]:
        near = difflib.get_close_matches(name, pool, 1, LEAST_SIMILARITY)
        lines.append(f"missing {name!r}" + (f"; nearest in the checkpoint {near[0]!r}" if near else ""))
    if not missing:
        for name in unexpected[:SPELLED_OUT]:
            near = difflib.get_close_matches(name, list(expected)[:MOST_COMPARED], 1, LEAST_SIMILARITY)
            lines.append(f"unexpected {name!r}" + (f"; nearest in the model {near[0]!r}" if near else ""))
    details = [f"missing: {name}" for name in missing] + [f"unexpected: {name}" for name in unexpected]
    hint = "Check --model, --model-arg and --key."
    if not missing:
        hint = (
            "The checkpoint holds all tensors of the model and more. Let the factory build those too, or "
            "give a file without them."
        )
    return MismatchError("\n".join(lines), hint, details)
