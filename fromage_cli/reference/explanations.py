"""What each finding, term, field, error and reason means: from the source and from the texts beside this module."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from fromage_cli.diagnostics import COMMANDS, EXAMPLES
from fromage_cli.errors import (
    EXIT_CODES,
    FromageError,
    InputError,
    MismatchError,
    NumericalError,
    ResourceError,
    UnsafeError,
    UsageError,
)
from fromage_cli.missing import Why
from fromage_cli.own_commands import OWN_COMMANDS, OWN_EXAMPLES
from fromage_cli.ranks import RankLost
from fromage_cli.reference.fields import JsonField, json_fields
from fromage_cli.reference.sources import constant, definition
from fromage_cli.stopping import Interruption
from fromage_cli.terminal.failure import Bug, Terminated

Kind = Literal["finding", "term", "command", "error", "reason", "exit-code", "field"]

ERRORS: tuple[type[FromageError], ...] = (
    *(Bug, UsageError, InputError, UnsafeError, MismatchError, NumericalError, ResourceError),
    *(RankLost, Interruption, Terminated),
)
FIELDS = "Fields of"
"""What the titles of groups of fields begin with."""
CONSTANT = re.compile(r"\{([a-z_.0-9]+)\.([A-Z_]+)(?::([^}]*))?\}")
"""A place in a text where a constant of the source stands, with its format."""


@dataclass(frozen=True)
class Meaning:
    """Something of a like name, in one sentence."""

    name: str
    """As it can be typed."""
    kind: Kind
    """What sort of thing it is: finding, term, command, error, reason, exit code or field."""
    meaning: str
    """What it is."""


@dataclass(frozen=True)
class Explanation:
    """One thing explained."""

    name: str
    """As it can be typed."""
    kind: Kind
    """What sort of thing it is: finding, term, command, error, reason, exit code or field."""
    meaning: str
    """What it is."""
    limit: str | None = None
    """Of a finding: when it is said."""
    formula: str | None = None
    """In symbols, where there is one."""
    assumes: str | None = None
    """What has to hold for it."""
    causes: str | None = None
    """Of a finding: what usually is the reason."""
    example: str | None = None
    """A worked number."""
    part_of: str | None = None
    """Of a field: what the object is that holds it."""
    holds: str | None = None
    """Of a field: what the objects are that it holds."""
    source: str | None = None
    """The paper, and where in it."""
    what_to_do: str | None = None
    """The next step of whoever meets it."""
    see: tuple[str, ...] = ()
    """Names of what belongs to it, as they can be typed."""
    also: tuple[Meaning, ...] = ()
    """What else has the same name, or is part of it."""


@dataclass(frozen=True)
class Group:
    """Names under one title."""

    title: str
    """What they have in common."""
    names: tuple[str, ...]
    """As they can be typed."""


@dataclass(frozen=True)
class Contents:
    """Everything that can be explained."""

    groups: tuple[Group, ...]
    """The names of everything that can be explained, in groups with titles."""


@cache
def texts(name: str) -> Mapping[str, Any]:
    """One of the files of texts, by its name without the ending."""
    return tomllib.loads(files("fromage_cli.reference").joinpath(f"{name}.toml").read_text(encoding="utf-8"))


@cache
def explanations() -> Mapping[str, Explanation]:
    """All of them by name: findings, then terms, commands, errors, reasons and exit codes, and fields last."""
    every = (*_findings(), *_terms(), *commands(), *_errors(), *_reasons(), *_exit_codes(), *map(_field, json_fields()))
    found: dict[str, Explanation] = {}
    for one in every:
        found.setdefault(one.name, one)
    return found


def _findings() -> Iterator[Explanation]:
    for code, said in texts("findings").items():
        yield Explanation(
            name=code,
            kind="finding",
            meaning=said["is"],
            limit=CONSTANT.sub(lambda place: shown_constant(*place.groups()), said["limit"]),
            causes=said["causes"],
            what_to_do=said["do"],
            see=tuple(said["see"]),
        )


def shown_constant(module: str, name: str, form: str | None) -> str:
    """A constant of the source in the format that a text asks for; `%`: a share as `5 %`."""
    value = constant(module, name)
    if form == "%" and isinstance(value, float):
        return f"{100.0 * value:g} %"
    return format(value, form or "")


def term(name: str) -> str:
    """How a term is typed: by its name alone, unless a finding has it too."""
    return f"term.{name}" if name in texts("findings") else name


def _terms() -> Iterator[Explanation]:
    for name, said in texts("topics").items():
        yield Explanation(
            name=term(name),
            kind="term",
            meaning=said["is"],
            formula=said.get("formula"),
            assumes=said.get("assumes"),
            example=said.get("example"),
            source=said.get("source"),
            what_to_do=said.get("do"),
            see=tuple(said.get("see", ())),
        )


def commands() -> Iterator[Explanation]:
    """All commands, each with its question or what it does, and what to type first."""
    said = {name: f"It answers: {question}" for name, question in COMMANDS.items()} | OWN_COMMANDS
    examples = EXAMPLES | OWN_EXAMPLES
    for name, meaning in said.items():
        line, words = examples[name][0]
        yield Explanation(
            name=f"command.{name}" if name in texts("topics") else name,
            kind="command",
            meaning=meaning,
            example=f"fromage-diag {line} ({words}).",
            what_to_do=f"Look at its options: fromage-diag {name} --help.",
        )


def _errors() -> Iterator[Explanation]:
    for kind in ERRORS:
        code, meaning = kind.code, (kind.__doc__ or "").splitlines()[0]
        what_to_do = texts("codes")["error"][code]
        also = tuple(one for one in _codes() if one.name == f"exit-code.{kind.exit_code}")
        yield Explanation(f"error.{code}", "error", meaning, what_to_do=what_to_do, see=("exit-codes",), also=also)


def _reasons() -> Iterator[Explanation]:
    found = definition("missing", "Why")
    assert found is not None
    for member, why in zip(found.members, Why, strict=True):
        what_to_do = texts("codes")["reason"][why.value]
        yield Explanation(f"reason.{why.value}", "reason", member.words, what_to_do=what_to_do, see=("missing",))


def _codes() -> Iterator[Meaning]:
    for code, words in EXIT_CODES:
        yield Meaning(f"exit-code.{code}", "exit-code", words)


def _exit_codes() -> Iterator[Explanation]:
    words = "What the program's exit status tells a script."
    yield Explanation("exit-codes", "exit-code", words, also=tuple(_codes()))
    for one in _codes():
        yield Explanation(one.name, "exit-code", f"{one.meaning[0].upper()}{one.meaning[1:]}.", see=("exit-codes",))


def _field(field: JsonField) -> Explanation:
    """A field with what the topic says that it is; topics that it only has to do with are named."""
    topics = texts("topics")
    own = [name for name in topics if matches(field.path, topics[name].get("fields", ()))]
    related = [name for name in topics if matches(field.path, topics[name].get("related", ()))]
    topic = topics[own[0]] if own else {}
    return Explanation(
        name=field.path,
        kind="field",
        meaning=field.meaning,
        formula=topic.get("formula"),
        assumes=topic.get("assumes"),
        example=topic.get("example"),
        part_of=field.part_of or None,
        holds=field.holds or None,
        source=topic.get("source"),
        what_to_do=topic.get("do"),
        see=tuple(dict.fromkeys(map(term, (*own, *related)))),
    )


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path is one that any of the patterns means."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def contents() -> Contents:
    """The names of everything, terms by their groups, fields by their commands."""
    groups: dict[str, list[str]] = {}
    for name, topic in texts("topics").items():
        groups.setdefault(topic["group"], []).append(term(name))
    titles = {"command": "Commands", "finding": "Findings", "error": "Errors", "reason": "Why a number is missing"}
    for name, one in explanations().items():
        if one.kind in titles:
            groups.setdefault(titles[one.kind], []).append(name)
        elif one.kind == "exit-code":
            groups.setdefault("Exit codes", []).append(name)
        elif one.kind == "field":
            groups.setdefault(f"{FIELDS} {name.partition('.')[0]}", []).append(name)
    return Contents(tuple(Group(title, tuple(names)) for title, names in groups.items()))
