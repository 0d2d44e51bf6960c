"""The JSON Schema of what every command prints, made from the dataclasses of its result."""

import ast
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fromage_cli import __version__
from fromage_cli.diagnostics import COMMANDS
from fromage_cli.missing import Why
from fromage_cli.reference.sources import Definition, Member, definition
from fromage_cli.terminal.envelope import SCHEMA

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ENVELOPE = "terminal.envelope"
CHECK, WATCH, REPORT = "check", "watch", "report"
ROOTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "check": (("diagnostics.check.result", "CheckResult"),),
    "inspect": (("diagnostics.inspect.result", "InspectResult"), ("diagnostics.inspect.result", "SafetyResult")),
    "breakdown": (("diagnostics.breakdown.result", "BreakdownResult"),),
    "suggest-lr": (("diagnostics.suggest_lr.result", "SuggestedRates"),),
    "norms": (("diagnostics.norms.result", "NormsResult"),),
    "intrinsic-lr": (("diagnostics.intrinsic_lr.result", "IntrinsicResult"),),
    "sharpness": (("diagnostics.sharpness.result", "SharpnessResult"),),
    "hypergrad": (("diagnostics.hypergrad.result", "HypergradResult"),),
    "state": (("diagnostics.state.result", "StateResult"),),
    "distance": (("diagnostics.distance.result", "DistanceResult"),),
    "bundle": (("bundle.contents", "BundleContents"),),
    "report": (("report.command", "ReportResult"),),
    "doctor": (("doctor.result", "DoctorResult"),),
    "trust": (("terminal.trust_command", "Trust"),),
    "explain": (("reference.explanations", "Explanation"), ("reference.explanations", "Contents")),
    "watch": (("diagnostics.check.result", "CheckResult"),),
    "schema": (),
}
"""The classes of the results of each command; `schema` answers with a schema, and with an envelope only to errors."""
WATCHED = ("watching.following", "WatchedCheckpoint")
ESTIMATE = ("terminal.answer", "EstimateResult")
ALONE: Mapping[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "float": {"type": ["number", "null"]},
    "object": {},
    "Any": {},
    "Missing": {"type": "null"},
}
"""Types that need no definition. A float is null where it is not finite."""


def schema_of(command: str) -> Schema:
    """The schema of one command's JSON, by itself; raises KeyError where there is no such command."""
    builder = Definitions()
    whole = builder.printed(command)
    return {**_head(f"{SCHEMA}/{command}", f"fromage-diag {command} --json"), **whole, "$defs": builder.sorted()}


def schema_of_all() -> Schema:
    """The schema of what any command prints; the definition of each stands under `command.NAME`."""
    builder = Definitions()
    commands = {f"command.{command}": builder.printed(command) for command in ROOTS}
    refused = builder.envelope(None, ())
    whole = {"anyOf": [*({"$ref": f"#/$defs/{name}"} for name in commands), refused]}
    return {**_head(SCHEMA, "fromage-diag --json"), **whole, "$defs": commands | builder.sorted()}


def _head(name: str, title: str) -> Schema:
    return {"$schema": DIALECT, "$id": f"urn:schema:{name}:{__version__}", "title": title}


class Definitions:
    """Schemas of the dataclasses that were asked for, and of all that these hold."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}

    def sorted(self) -> dict[str, Schema]:
        """By name."""
        return dict(sorted(self.found.items()))

    def printed(self, command: str) -> Schema:
        """What a command prints: an envelope, of several files an array of them, of `watch` a line of its log."""
        if command == WATCH:
            line, answer = self.of_class(defined(*WATCHED)), self.envelope(CHECK, ROOTS[WATCH])
            answer["properties"] = line["properties"] | answer["properties"]
            answer["required"] = line["required"] + answer["required"]
            return {"anyOf": [answer, self.envelope(WATCH, ())]}
        roots = ROOTS[command]
        envelope = self.envelope(command, (*roots, ESTIMATE) if command in (*COMMANDS, REPORT) else roots)
        return {"anyOf": [envelope, {"type": "array", "items": envelope}]} if command == "inspect" else envelope

    def envelope(self, command: str | None, roots: Iterable[tuple[str, str]]) -> Schema:
        """The envelope around one of these results, or around an error."""
        whole = self.of_class(defined(ENVELOPE, "Envelope"))
        results = [self.reference(*root) for root in roots]
        whole["properties"] |= {
            "schema": {"const": SCHEMA, **_described(whole["properties"]["schema"])},
            "command": {"const": command, **_described(whole["properties"]["command"])},
            "result": {"anyOf": [*results, {"type": "null"}], **_described(whole["properties"]["result"])},
            "error": {**self.reference(ENVELOPE, "ErrorRecord"), "description": "There only beside an error."},
            "nonfinite": {"type": "array", "items": self.reference("terminal.plain", "NotFinite")},
        }
        whole["required"] += ["nonfinite"]
        return whole

    def reference(self, module: str, name: str) -> Schema:
        """A reference to a class's schema, which is made where it is not there yet."""
        found = defined(module, name)
        key = f"{found.module.split('.')[-2:][0]}.{found.name}"
        if key not in self.found:
            self.found[key] = {}  # a class may hold itself
            self.found[key] = self.of_class(found)
        return {"$ref": f"#/$defs/{key}"}

    def of_class(self, found: Definition) -> Schema:
        """The schema of a dataclass: its fields with the words below them, and why those that may be missing are."""
        properties = {each.name: self.of_field(found, each) for each in found.members}
        whole: Schema = {"type": "object", "description": in_json(found.words)}
        whole |= {"properties": properties, "required": list(properties)}
        if reasons := [each.name for each in found.members if may_be_missing(each)]:
            whole["properties"]["missing"] = {
                "type": "object",
                "description": "Why a field is null, by its name; of a list the reason of the first that is missing.",
                "properties": dict.fromkeys(reasons, REASON),
            }
        return whole

    def of_field(self, found: Definition, field: Member) -> Schema:
        """The schema of one field."""
        assert field.type is not None
        if (found.name, field.name) == ("CheckResult", "results"):
            told = {name: self.printed_results(name) for name in COMMANDS if name != CHECK}
            schema: Schema = {"type": "object", "properties": told}
        else:
            schema = self.of_type(found.module, field.type)
        return {**schema, "description": in_json(field.words)} if field.words else schema

    def printed_results(self, command: str) -> Schema:
        """Any of the results of a command, as `check` holds them."""
        return _any_of(self.reference(*root) for root in (*ROOTS[command], ESTIMATE))

    def of_type(self, module: str, annotation: ast.expr) -> Schema:
        """The schema of an annotation as it stands in a module."""
        match annotation:
            case ast.Constant(value=None):
                return {"type": "null"}
            case ast.Constant(value=str(text)):
                return self.of_type(module, ast.parse(text, mode="eval").body)
            case ast.BinOp(left=left, right=right):
                return _any_of([self.of_type(module, left), self.of_type(module, right)])
            case ast.Subscript(value=ast.Name(id=name), slice=inner):
                return self.of_generic(module, name, inner.elts if isinstance(inner, ast.Tuple) else [inner])
            case ast.Name(id=name) if name in ALONE:
                return dict(ALONE[name])
            case ast.Name(id=name):
                return self.of_name(defined(module, name))
        raise TypeError(f"{module}: {ast.unparse(annotation)} has no schema")

    def of_generic(self, module: str, name: str, inner: list[ast.expr]) -> Schema:
        """The schema of a series, a mapping or a choice of texts."""
        if name == "Literal":
            return {"enum": [ast.literal_eval(one) for one in inner]}
        if name == "Mapping":
            values = self.of_type(module, inner[1])
            return {"type": "object", "additionalProperties": values} if values else {"type": "object"}
        if name not in ("tuple", "list", "Sequence"):
            raise TypeError(f"{module}: {name} has no schema")
        items = [self.of_type(module, one) for one in inner if ast.unparse(one) != "..."]
        if name == "tuple" and len(items) == len(inner):
            return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
        return {"type": "array", "items": items[0]}

    def of_name(self, found: Definition) -> Schema:
        """The schema of a class of this package, or of what a name stands for."""
        if not isinstance(found.node, ast.ClassDef):
            return self.of_type(found.module, found.node)
        return {"type": "string"} if "str" in found.bases else self.reference(found.module, found.name)


REASON: Schema = {
    "type": "object",
    "properties": {
        "code": {"enum": [why.value for why in Why], "description": "The kind of reason, for scripts."},
        "reason": {"type": "string", "description": "The same in words, for people."},
    },
    "required": ["code", "reason"],
}


def in_json(words: str) -> str:
    """What the source says of a value, by the names that it has in JSON."""
    return re.sub(r"\b(None|True|False)\b", lambda name: {"None": "null"}.get(name[0], name[0].lower()), words)


def may_be_missing(field: Member) -> bool:
    """Whether a Missing can stand in a field, or in its list."""
    return field.type is not None and "Missing" in ast.unparse(field.type)


def defined(module: str, name: str) -> Definition:
    """Where a class that a module uses is defined; raises TypeError where that is not in this package."""
    found = definition(module, name)
    if found is None:
        raise TypeError(f"{module}: {name} is not defined in this package")
    return found


def _described(schema: Schema) -> Schema:
    return {"description": schema["description"]}


def _any_of(schemas: Iterable[Schema]) -> Schema:
    """One of these; types alone become a list of them."""
    parts = [part for schema in schemas for part in (schema["anyOf"] if schema.keys() == {"anyOf"} else [schema])]
    if all(part.keys() == {"type"} for part in parts):
        types = [
            each for part in parts for each in (part["type"] if isinstance(part["type"], list) else [part["type"]])
        ]
        return {"type": list(dict.fromkeys(types))}
    return {"anyOf": parts} if len(parts) > 1 else parts[0]
