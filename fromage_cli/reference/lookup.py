"""From a word that was typed to what it means: a whole name, its last part, or the nearest names."""

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

from fromage_cli.errors import UsageError
from fromage_cli.reference.explanations import Explanation, Meaning, explanations, term, texts
from fromage_cli.terminal.words import ascii_words, middle, visible

NEAREST = 5
"""Names that are offered where there is none of that name."""
LONGEST = 100
"""Characters of a word that an error repeats."""
SYMBOLS = {"eta": "relative-step", "lambda": "weight-decay"}
"""Terms that formulas write as one letter."""


def look_up(word: str) -> Explanation:
    """What a word means, and what else has that name; raises UsageError where nothing has.

    Case, brackets, and hyphens or underscores make no difference. A Greek letter is as good as its name.
    """
    key = plain_name(ascii_words(word))
    every = {plain_name(name): one for name, one in explanations().items()}
    whole = key if key in every else _other_words().get(key, key)
    found = [every[whole]] if whole in every else []
    if not found or found[0].kind != "field":
        found += [one for name, one in every.items() if name.endswith(f".{key}")]
    if not found:
        last = {name.rpartition(".")[2]: name for name in every}
        near = dict.fromkeys(get_close_matches(key[:LONGEST], [*every, *last], n=2 * NEAREST, cutoff=0.5))
        said = f"Nearest: {', '.join(list(near)[:NEAREST])}. " if near else ""
        shown = middle(visible(word), LONGEST)
        raise UsageError(f"Nothing is called {shown!r}.", f"{said}fromage-diag explain lists all topics.")
    if len(found) == 1:
        return found[0]
    if found[0].kind == "field":
        return _several(key, found)
    return replace(found[0], also=(*found[0].also, *map(_in_short, found[1:])))


def _other_words() -> dict[str, str]:
    """Terms by what else they are called on pages and in formulas."""
    told = {word: term(name) for name, topic in texts("topics").items() for word in topic.get("also", ())}
    return SYMBOLS | {plain_name(word): name for word, name in told.items()}


def plain_name(word: str) -> str:
    """A name as it is compared: small letters, hyphens, without brackets."""
    return re.sub(r"[\s_]+", "-", re.sub(r"\[\w*\]", "", word.strip().lower()))


def _several(name: str, fields: Sequence[Explanation]) -> Explanation:
    """Fields of several commands that have the same name."""
    same = len({one.meaning for one in fields}) == 1
    meaning = fields[0].meaning if same else f"{len(fields)} fields of the JSON have this name."
    see = tuple(dict.fromkeys(name for one in fields for name in one.see))
    return Explanation(name, "field", meaning, see=see, also=tuple(map(_in_short, fields)))


def _in_short(one: Explanation) -> Meaning:
    return Meaning(one.name, one.kind, one.meaning)
