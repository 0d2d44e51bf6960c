"""Which of the dictionaries in a training checkpoint is the weights.

Names that are usual for weights go before other names, plain weights before averaged copies, larger before smaller;
what belongs to an optimizer or scheduler is never taken unless the user names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fromage_cli.checkpoints.names.naming import listed, nearest
from fromage_cli.checkpoints.nested.candidates import TOP, Candidate, candidates_in, children_of, is_tensor
from fromage_cli.checkpoints.pickles.placeholders import Global, Placeholder
from fromage_cli.errors import InputError, UsageError


@dataclass(frozen=True)
class Choice:
    """What the user asks for in a file of several dictionaries."""

    key: str | None = None  # the dotted path of one
    ema: bool | None = None  # averaged weights, or none; None: plain weights where there are any


ANY = Choice()


def choose(root: object, choice: Choice = ANY) -> tuple[Candidate, str | None]:
    """Return the dictionary that is asked for, or the most likely one, and a note where there was a choice."""
    candidates = {candidate.name: candidate for candidate in candidates_in(root)}
    if choice.key is not None:
        return _named(candidates, choice.key), None
    eligible = sorted((found for found in candidates.values() if not found.other), key=lambda found: found.preference)
    if not eligible:
        raise _nothing(root, candidates)
    if choice.ema is not None:
        eligible = _averaged(eligible, choice.ema)
    best = eligible[0]
    rest = [found for found in eligible[1:] if not (_inside(found, best) or found.scalars)]
    if not rest:
        return best, None
    by_size = ", the largest" if best.preference[:-1] == rest[0].preference[:-1] else ""
    others = listed([found.name for found in rest])
    averaged = not best.averaged and any(found.averaged for found in rest)
    another = "--ema takes the averaged weights, --key any." if averaged else "--key picks another."
    return best, f"Took {best.name!r}{by_size} of {1 + len(rest)} dictionaries of tensors, not {others}; {another}"


def _averaged(eligible: list[Candidate], ema: bool) -> list[Candidate]:
    """The candidates that are averaged, or those that are not; UsageError where there is none."""
    found = [candidate for candidate in eligible if candidate.averaged == ema]
    if found and not all(candidate.scalars for candidate in found):
        return found
    names = [candidate.name for candidate in eligible]
    flag, kind = ("--ema", "averaged") if ema else ("--no-ema", "plain")
    raise UsageError(
        f"{flag}: there are no {kind} weights in this file, only {listed(names)}.",
        hint=f"Leave {flag} out, or take a dictionary with --key.",
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


def _inside(candidate: Candidate, outer: Candidate) -> bool:
    return candidate.path[: len(outer.path)] == outer.path and bool(outer.path)


def _named(candidates: Mapping[str, Candidate], key: str) -> Candidate:
    if key in candidates:
        return candidates[key]
    names = _weights_first(candidates)
    raise UsageError(
        f"--key {key!r} names no dictionary of tensors in this file.",
        hint=nearest(key, names) or "The file has none.",
        details=names,
    )


def _nothing(root: object, candidates: Mapping[str, Candidate]) -> InputError:
    if names := _weights_first(candidates):
        return InputError(
            f"No weights were found, only other tensors: {listed(names)}.",
            hint="Name another file, or take one of these with --key.",
            details=names,
        )
    if isinstance(root, Mapping):
        held = f"it holds {listed([str(name) for name in root])}" if root else "it is empty"
        return InputError(f"A dictionary without tensors was found: {held}.", hint="Name the file with the weights.")
    return InputError(
        f"A {_kind(root)} was found; a dictionary of named tensors was expected.",
        hint="Save the weights with torch.save(model.state_dict(), 'weights.pt').",
    )


def _weights_first(candidates: Mapping[str, Candidate]) -> list[str]:
    return sorted(candidates, key=lambda name: (candidates[name].other, name == TOP))


def _kind(value: object) -> str:
    if isinstance(value, Global):
        return value.dotted
    return (
        "Tensor" if is_tensor(value) else value.kind.dotted if isinstance(value, Placeholder) else type(value).__name__
    )
