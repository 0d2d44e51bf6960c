"""Which run each answer is about, and whether answers are about one network."""

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import combinations
from posixpath import dirname, normpath
from typing import Any

from fromage_cli.errors import UsageError
from fromage_cli.report.opening import Envelope
from fromage_cli.report.told import FARTHEST_STEP, at, entries_at, number_at, text_at
from fromage_cli.terminal.words import visible

LIKENESS = 3
"""Last dotted parts of two names that make them alike, whatever stands before them; fewer where one is all of it."""
WRAPPERS = ("module.", "model.", "_orig_mod.")
"""What may stand before all names of one answer alone."""


def step_of(envelope: Envelope) -> int | None:
    """The step of the last checkpoint of an answer; None where it is not known."""
    return _step(_last(envelope))


def place_of(envelope: Envelope) -> str:
    """The path of the last checkpoint of an answer; empty where there is none."""
    return text_at(_last(envelope), "path")


def same_place(first: str, second: str) -> bool:
    """Whether two paths name one place, of which one may be whole and the other its end."""
    one, other = (f"/{normpath(path)}" for path in (first, second))
    return one.endswith(other) or other.endswith(one)


def check_one_network(answers: Sequence[Envelope]) -> None:
    """Raise UsageError where two answers name layers and have none of them in common.

    Answers about one checkpoint never conflict, nor does one about chosen tensors alone.
    """
    told: dict[frozenset[str], Envelope] = {}
    for answer in answers:
        if not at(answer, "settings", "include") and not at(answer, "settings", "exclude"):
            told.setdefault(frozenset(_names(answer)), answer)
    for names, others in combinations(filter(None, told), 2):
        both = (told[names], told[others])
        places = [place_of(each) for each in both]
        if not share(names, others) and not (all(places) and same_place(*places)):
            shown = [place or text_at(each, "command") for place, each in zip(places, both, strict=True)]
            first, second = (repr(visible(each)) for each in shown)
            raise UsageError(
                f"{first} and {second} have no layer in common: they are different networks.",
                "A page shows one network. Make one page for each.",
            )


def share(names: Set[str], others: Set[str]) -> bool:
    """Whether two names are alike: one ends the other, or both end alike."""
    one, other = _endings(names), _endings(others)
    alike = {name for name in one & other if name.count(".") >= LIKENESS - 1}
    return bool(alike or one & others or other & names)


def _endings(names: Set[str]) -> set[str]:
    parts = [name.split(".")[-12:] for name in names]
    return {".".join(each[start:]) for each in parts for start in range(len(each))}


def _names(answer: Envelope) -> Iterator[str]:
    """The layers and tensors that an answer names, without what wraps the network."""
    result = at(answer, "result")
    held = at(result, "results") if text_at(answer, "command") == "check" else None
    for each in (result, *(held.values() if isinstance(held, Mapping) else ())):
        for kind in ("layers", "tensors"):
            for entry in entries_at(each, kind):
                name = text_at(entry, "name")
                for wrapper in WRAPPERS:
                    name = name.removeprefix(wrapper)
                yield from [name] if name else []


def runs_of(answers: Sequence[Envelope]) -> list[str]:
    """The directory of the run of each answer, spelled alike for all of one run; empty where it is not known.

    What one command looked at is one run, but for `distance`, which may compare two.
    """
    groups: list[list[str]] = []
    for answer in answers:
        told = [_last(answer)] if text_at(answer, "command") == "distance" else entries_at(answer, "checkpoints")
        new = [_directory(one) for one in told if text_at(one, "path")]
        for group in [group for group in groups if any(beside(one, other) for one in group for other in new)]:
            new = [*group, *new]
            groups.remove(group)
        groups.append([*dict.fromkeys(new)])
    found = []
    for answer in answers:
        own = _directory(_last(answer))
        group = next((group for group in groups if place_of(answer) and own in group), [])
        found.append(max(group, key=len, default=""))
    return found


def short_names(directories: Sequence[str]) -> dict[str, str]:
    """As many of the last names of each directory as tell them apart."""
    parts = [directory.strip("/").split("/") for directory in directories]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return dict(zip(directories, names, strict=True))
    return {directory: directory for directory in directories}


def beside(one: str, other: str) -> bool:
    """Whether two directories are the same; of one without a name nothing is known."""
    return not one or not other or same_place(one, other)


def _directory(checkpoint: Mapping[str, Any]) -> str:
    """Of the run of a checkpoint: what holds the file, and what holds directories that are named by their step."""
    path = normpath(text_at(checkpoint, "path"))
    while path.startswith("../"):
        path = path[3:]
    found, step = dirname(path), _step(checkpoint)
    name = found.rpartition("/")[2]
    digits = name[len(name.rstrip("0123456789")) :]
    named_by_step = digits.isascii() and digits.isdigit() and int(digits[:20]) == step
    return dirname(found) if named_by_step else found


def _last(answer: Envelope) -> Mapping[str, Any]:
    told = entries_at(answer, "checkpoints")
    return told[-1] if told else {}


def _step(checkpoint: Mapping[str, Any]) -> int | None:
    step = number_at(checkpoint, "step")
    return int(step) if step is not None and abs(step) < FARTHEST_STEP else None
