"""How names from files are compared, shown in messages, and freed of what wrappers put into them."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate

SPELLED_OUT = 3
"""Names spelled out in a message: more are not read, and the complete list goes into its details."""
BRIEF = 60
"""Characters of a value in a message: half a line."""
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module")
"""What DistributedDataParallel, torch.compile, FSDP and DeepSpeed put into names."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return a sentence with the candidates that look most like `name`, or with the first ones if none does."""
    known = list(candidates)
    if not known:
        return ""
    close = difflib.get_close_matches(name, known[:10_000], n=SPELLED_OUT, cutoff=0.6)
    return f"Nearest: {listed(close)}." if close else f"Available: {listed(known)}."


def brief(value: object) -> str:
    """Return a value from a file for a message, in a few characters and a few steps whatever it is.

    What lies inside of what lies inside of it is left out: written out in full, a hundred bytes of a pickle can be
    made to have no end.
    """
    if isinstance(value, list | tuple):
        shown = ", ".join(_brief(member) for member in value[:SPELLED_OUT])
        text = f"[{shown}{', …' if len(value) > SPELLED_OUT else ''}]"
    else:
        text = _brief(value)
    return text if len(text) <= BRIEF else f"{text[: BRIEF - 1]}…"


def _brief(value: object) -> str:
    """Return a value that is no list, in a few characters."""
    if isinstance(value, str | bytes):
        return repr(value[:BRIEF])
    if isinstance(dotted := getattr(value, "dotted", None), str):  # a class or function that a pickle names
        return dotted[:BRIEF]
    plain = value is None or (isinstance(value, int | float) and abs(value) < 1e300)
    return repr(value) if plain else f"a {type(value).__name__}"


def chosen_names(names: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> set[str]:
    """Return the names that match a glob of `include` (all where there is none) and none of `exclude`."""
    known = list(names)
    kept = set(known) if not include else {name for glob in include for name in _matching(glob, known)}
    return kept.difference(*(_matching(glob, known) for glob in exclude))


def _matching(glob: str, names: Sequence[str]) -> list[str]:
    """Return the names that a glob matches; where it matches no whole one, those with dotted parts that it matches.

    So names may be given as tables show them, without what all share and with dots for what was cut. Such dots never
    stand for a part of a number.
    """
    if found := [name for name in names if fnmatchcase(name, glob)]:
        return found
    dots = re.sub(r"…|\.\.+", "\ue000", glob)  # a sign for private use, which no glob has
    pattern = re.compile(translate(f"*.{dots}.*").replace("\ue000", r"(?!\d).*(?<!\d)"))
    return [name for name in names if pattern.match(f".{name}.")]


def first_twice(names: Iterable[str]) -> str | None:
    """Return the first name that comes a second time."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def listed(names: Sequence[str]) -> str:
    """Return the first names, quoted with control characters escaped, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:SPELLED_OUT])
    more = len(names) - SPELLED_OUT
    return f"{shown} and {more} more" if more > 0 else shown


@dataclass(frozen=True)
class Stripped:
    """Names without their wrapper prefixes."""

    names: Mapping[str, str]  # stripped name -> stored name, in stored order
    prefixes: tuple[str, ...]  # what was removed: "module.", …
    notes: tuple[str, ...]


def strip_prefixes(stored: Iterable[str]) -> Stripped:
    """Strip each wrapper anywhere in the names, unless two names would then be one."""
    names = {name: name for name in stored}
    prefixes: list[str] = []
    notes: list[str] = []
    for wrapper in WRAPPERS:
        if not any(wrapper in name.split(".")[:-1] for name in names):
            continue
        shorter: dict[str, str] = {}
        clash = None
        for name, original in names.items():
            *parents, last = name.split(".")
            short = ".".join([part for part in parents if part != wrapper] + [last])
            clash = clash or ((shorter[short], original) if short in shorter else None)
            shorter[short] = original
        if clash:
            notes.append(
                f"Kept the prefix '{wrapper}.': without it {clash[0]!r} and {clash[1]!r} would have the same name."
            )
        else:
            names, prefixes = shorter, [*prefixes, f"{wrapper}."]
    return Stripped(names, tuple(prefixes), tuple(notes))
