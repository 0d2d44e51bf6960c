"""Every field of the JSON by its path, with what it is: the line below it in the source, or words of its own."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fromage_cli.reference.schema import ROOTS, WATCH, WATCHED, Definitions, Schema, defined, schema_of

ENVELOPE, ANY = "envelope", "trust"
"""The name of the envelope in paths, and a command that shows it."""
OF_OTHERS = ("check.results",)
"""Fields that hold the results of other commands, whose own paths tell what is in them."""


@dataclass(frozen=True)
class JsonField:
    """One field of the JSON."""

    path: str
    """`suggest-lr.limit.eta`, or `envelope.tool.seconds` of all commands."""
    meaning: str
    part_of: str
    """What the object is that holds it."""
    holds: str
    """What each of the objects is that it holds; empty for a number or a text."""


@cache
def json_fields() -> tuple[JsonField, ...]:
    """All fields in the order of the commands; those of every command stand last, under `envelope`."""
    found: dict[str, JsonField] = {}
    for command in (name for name in ROOTS if name not in ("schema", WATCH)):
        document = schema_of(command)
        for envelope in (one for one in _alternatives(document, document) if "properties" in one):
            found |= {one.path: one for one in _below(document, envelope["properties"]["result"], command)}
    line = Definitions().of_class(defined(*WATCHED))
    found |= {one.path: one for one in _members({}, line, WATCH)}
    document = schema_of(ANY)
    named = [one for one in _members(document, document, ENVELOPE) if not one.path.startswith("envelope.result.")]
    return (*found.values(), *named)


@cache
def own_words() -> Mapping[str, str]:
    """What fields are that the source does not say, by path or by name."""
    text = files("fromage_cli.reference").joinpath("fields.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _below(document: Schema, part: Schema, path: str) -> Iterator[JsonField]:
    """The fields of the objects that a part of a schema may hold."""
    for each in _alternatives(document, part):
        if "items" in each:
            yield from _below(document, each["items"], path)
        elif path not in OF_OTHERS:
            yield from _members(document, each, path)


def _members(document: Schema, holder: Schema, path: str) -> Iterator[JsonField]:
    for name, schema in holder.get("properties", {}).items():
        if name != "missing":
            below = f"{path}.{name}"
            held = " ".join(dict.fromkeys(_descriptions(document, schema)))
            said = schema.get("description", "")
            words = own_words().get(below) or said or own_words().get(name) or held
            yield JsonField(below, words, holder.get("description", ""), held if held != words else "")
            yield from _below(document, schema, below)


def _descriptions(document: Schema, part: Schema) -> Iterator[str]:
    """What the objects are that a part may hold."""
    for each in _alternatives(document, part):
        if "items" in each:
            yield from _descriptions(document, each["items"])
        elif "properties" in each and each is not part:
            yield each["description"]


def _alternatives(document: Schema, part: Schema) -> Iterator[dict[str, Any]]:
    """The schemas that a part stands for, references followed."""
    if "$ref" in part:
        yield from _alternatives(document, document["$defs"][part["$ref"].removeprefix("#/$defs/")])
    elif "anyOf" in part:
        for each in part["anyOf"]:
            yield from _alternatives(document, each)
    else:
        yield part
