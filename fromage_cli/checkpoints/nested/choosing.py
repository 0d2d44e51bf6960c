"""Which of the dictionaries in a training checkpoint is the weights.

Names that are usual for weights go before other names, plain weights before averaged copies, larger before smaller;
what belongs to an optimizer or scheduler is never taken unless the user names it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.names.naming import listed, nearest
from fromage_cli.checkpoints.nested.candidates import TOP, Candidate, candidates_in, children_of, is_tensor
from fromage_cli.checkpoints.optimizers.saved_optimizer import is_optimizer
from fromage_cli.checkpoints.pickles.placeholders import Global, Placeholder
from fromage_cli.checkpoints.storage.files import quoted
from fromage_cli.errors import InputError, UsageError


class OptimizerAlone(InputError):
    """A file holds an optimizer's state and no weights."""


@dataclass(frozen=True)
class Choice:
    """What the user asks for in a file of several dictionaries."""

    key: str | None = None  # the dotted path of one
    ema: bool | None = None  # averaged weights, or none; None: plain weights where there are any
    optimizer: str | None = None  # the dotted path of the optimizer's state


ANY = Choice()


def choose(path: Path, root: object, choice: Choice = ANY) -> tuple[Candidate, str | None]:
    """Return the dictionary that is asked for, or the most likely one, with a note where there was a choice.

    Raises UsageError where the file lacks what is asked for, InputError where it holds no weights.
    """
    candidates = {candidate.name: candidate for candidate in candidates_in(root)}
    names = sorted(candidates, key=lambda name: (candidates[name].other, name == TOP))  # weights first
    if choice.key is not None:
        if choice.key in candidates:
            return candidates[choice.key], None
        raise UsageError(
            f"--key {choice.key!r} names no dictionary of tensors in {quoted(path)}.",
            hint=nearest(choice.key, names) or "The file has no dictionary of tensors; leave --key out.",
            details=names,
        )
    eligible = sorted((found for found in candidates.values() if not found.other), key=lambda found: found.preference)
    if not eligible:
        raise _without_weights(path, root, names)
    if choice.ema is not None:
        eligible = _averaged_or_plain(path, eligible, choice.ema)
    best = eligible[0]
    rest = [
        found
        for found in eligible[1:]
        if not found.scalars and not (best.path and found.path[: len(best.path)] == best.path)  # inside of the best
    ]
    if not rest:
        return best, None
    by_size = ", the largest" if best.preference[:-1] == rest[0].preference[:-1] else ""
    others = listed([found.name for found in rest])
    averaged = not best.averaged and any(found.averaged for found in rest)
    another = "--ema takes the averaged weights, --key another dictionary." if averaged else "--key takes another one."
    return best, f"Took {best.name!r}{by_size} of {1 + len(rest)} dictionaries of tensors, not {others}; {another}"


def _averaged_or_plain(path: Path, eligible: list[Candidate], ema: bool) -> list[Candidate]:
    """Return the candidates that are averaged, or those that are not; raises UsageError where there is none."""
    found = [candidate for candidate in eligible if candidate.averaged == ema]
    if found and not all(candidate.scalars for candidate in found):
        return found
    names = [candidate.name for candidate in eligible]
    flag, kind = ("--ema", "averaged") if ema else ("--no-ema", "plain")
    raise UsageError(
        f"{quoted(path)} has no {kind} weights, which {flag} asks for; it has {listed(names)}.",
        hint=f"Leave {flag} out, or choose a dictionary with --key.",
        details=names,
    )


def ancestors(root: object, path: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    """Yield the dictionaries around and including the one at `path`, outermost first."""
    node = root
    for part in (*path, None):
        if isinstance(node, Mapping):
            yield {str(name): value for name, value in node.items()}
        if part is not None:
            node = dict(children_of(node))[part]


def _without_weights(path: Path, root: object, other_tensors: list[str]) -> InputError:
    """Return the error for a file without weights, by what it holds instead."""
    if isinstance(root, Mapping) and is_optimizer(root):
        return OptimizerAlone(
            f"{quoted(path)} holds an optimizer's state and no weights.",
            hint="Name the checkpoint or its directory instead. inspect shows what the state holds.",
            details=other_tensors,
        )
    if other_tensors:
        return InputError(
            f"{quoted(path)} holds no weights, only other tensors: {listed(other_tensors)}.",
            hint="Name another file, or choose one of these with --key.",
            details=other_tensors,
        )
    if isinstance(root, Mapping):
        held = f"it holds {listed([str(name) for name in root])}" if root else "it is empty"
        return InputError(
            f"{quoted(path)} holds a dictionary without tensors: {held}.", hint="Name the file that holds the weights."
        )
    pickled = root.dotted if isinstance(root, Global) else root.kind.dotted if isinstance(root, Placeholder) else ""
    kind = pickled or ("Tensor" if is_tensor(root) else type(root).__name__)
    return InputError(
        f"{quoted(path)} holds an object of type {kind}; expected a dictionary of named tensors.",
        hint="Save the weights with torch.save(model.state_dict(), 'weights.pt').",
    )
