"""The rules of `check`: every code that it may find, and what the user's own rules change, add or silence."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, cast

from fromage_cli.errors import UsageError
from fromage_cli.findings import Finding, Severity
from fromage_cli.missing import known
from fromage_cli.terminal.words import nearest, visible

KEYS = ("code", "severity", "layers", "quantity", "above", "below", "message", "hint")
"""What a rule of the user may say."""
SEVERITIES = ("off", "info", "warn", "fail")
EXAMPLE = 'code = "layer-forgotten"\nseverity = "off"'


@dataclass(frozen=True)
class Rule:
    """A code, who finds it, and how grave it is."""

    code: str
    command: str
    """Which tells more."""
    severity: str
    """`info`, `warn` or `fail`; two, as `info,warn`, where it depends on what else is known."""
    quantity: str = ""
    """What is held against the limit, as a path in `results`; empty where no single number is."""
    healthy_runs: int = 0
    """Healthy runs in which its severity was looked at: those of docs/early-warning.md."""
    false_alarms: int = 0
    """How many of these had it as a warning or a failure at any checkpoint."""


HEALTHY_RUNS = 96
FALSE_ALARMS = {"quadratic-model-rises": 1, "above-threshold": 1}
"""By code, of HEALTHY_RUNS; the other rules had none."""
QUANTITIES = {
    "attention-logits-large": "forward-pass.attention.heads.largest_logit",
    "no-better-than-guessing": "forward-pass.guessing.ratio",
    "units-dead": "forward-pass.units.share",
    "layer-out-of-line": "check.out_of_line.factor",
    "updates-lost": "state.totals.lost.entries",
    "norm-far-from-first": "norms.layers.first_to_last",
    "norm-jumps": "norms.layers.jump.factor",
    "invariant-layer-grows": "norms.layers.growth_per_step",
    "layer-turned": "distance.layers.angle",
    "far-from-equilibrium": "intrinsic-lr.layers.log_ratio",
    "above-threshold": "sharpness.ratio",
    "batch-sharpness-high": "sharpness.batch_sharpness.mean",
    "breakdown-early": "breakdown.layers.trust_eta",
    "rate-not-stable": "suggest-lr.stability.ratio",
}
"""What is held against a limit, as a path in `results`, of the codes that compare a single number."""
_TABLE = """
check fail loss-not-finite
check warn decay-too-strong grows-without-decay layer-forgotten
check info,warn layer-large
forward-pass warn,fail loss-rises
forward-pass warn batch-statistics-stale units-dead
forward-pass info,warn attention-entropy-collapsed loss-differs-from-held-out no-better-than-guessing
forward-pass info attention-logits-large logits-drift
inspect fail tensor-not-finite
inspect warn log-not-finite not-all-read pickle-names-unknown pickle-runs-code
inspect info tensor-all-zero tensors-equal
state fail moments-not-finite
state warn decay-lost layer-does-not-move layer-frozen master-differs master-rebuilt moments-impossible
state warn moments-not-continued moments-not-updated optimizer-restarted rate-jumps rate-not-continued
state warn rate-rises-again update-count-not-the-files update-counts-differ updates-and-steps-differ
state warn updates-lost
state info group-rates-differ decay-forgets-fast decay-hardly-acts eps-decides rows-without-gradient updates-lost-ahead
state info,warn rates-disagree replicas-differ weights-not-continued
norms fail norm-not-finite
norms warn norm-overflows norm-far-from-first
norms info,warn layer-out-of-line
norms info bias-dead norm-follows-law rows-dead never-updated layers-unchanged norm-jumps
norms info invariant-layer-grows
distance fail distance-not-finite
distance warn tensors-unpaired
distance info dtypes-differ layer-unmoved ties-differ layer-turned
intrinsic-lr warn scale-invariance-untested schedule-mismatch
intrinsic-lr info entries-without-gradient forecast-doubtful invariant-with-bias no-equilibrium
intrinsic-lr info not-scale-invariant relaxation-too-short rotation-above-law rotation-off schedule-unknown
intrinsic-lr info units-without-size far-from-equilibrium
sharpness warn quadratic-model-diverges quadratic-model-rises quadratic-model-spikes
sharpness warn rate-depends-on-architecture
sharpness info,warn above-threshold
sharpness info catapult edge-of-stability first-step-rises no-positive-curvature batch-sharpness-high
breakdown warn gradient-is-not-the-losses grid-starts-late one-hot-targets
breakdown info,warn noisy-gradient
breakdown info curvature-breaks-earlier gradient-is-rounding gradient-is-zero grid-too-coarse grid-wide
breakdown info layers-without-size loss-adds-up loss-overflows no-second-derivative one-draw-of-many
breakdown info step-ascends steps-too-small tensor-still breakdown-early
hypergrad info raise-hyperparameter lower-hyperparameter derivative-does-not-reach
suggest-lr warn verification-rises
suggest-lr info,warn rate-not-stable
suggest-lr info certain-together-only descends-on-own-rows-only no-certain-step noise-dominates
suggest-lr info rate-above-limit rate-not-measured recommended-above-critical step-uphill
suggest-lr info verification-prefers-another
"""
RULES: Mapping[str, Rule] = {
    code: Rule(code, command, severity, QUANTITIES.get(code, ""), HEALTHY_RUNS, FALSE_ALARMS.get(code, 0))
    for command, severity, *codes in map(str.split, _TABLE.strip().splitlines())
    for code in codes
}
"""By code."""


@dataclass(frozen=True)
class UserRule:
    """What the project's configuration says of a code."""

    code: str
    severity: str | None = None
    layers: tuple[str, ...] = ("*",)
    """Patterns of names; those of the whole network are meant by `*` alone."""
    quantity: str = ""
    above: float | None = None
    below: float | None = None
    message: str = ""
    hint: str = ""

    def meant(self, finding: Finding) -> bool:
        """Whether this rule speaks of the finding."""
        whole = finding.layer is None and "*" in self.layers
        named = finding.layer is not None and any(fnmatchcase(finding.layer, glob) for glob in self.layers)
        return finding.code == self.code and (whole or named)

    @property
    def limit(self) -> float | None:
        """The limit that it sets, on either side."""
        return self.below if self.above is None else self.above

    def beyond(self, value: float) -> bool:
        """Whether the value is a finding."""
        return (self.above is not None and value > self.above) or (self.below is not None and value < self.below)


def read_rules(entries: object) -> tuple[UserRule, ...]:
    """The rules of a project's configuration; raises UsageError for what is none."""
    tables = entries if isinstance(entries, list) else [entries]
    return tuple(map(read_rule, tables))


def read_rule(entry: object) -> UserRule:
    """One of them, or UsageError with what to write."""
    where = "A rule in [[tool.fromage-diag.rule]]"
    if not isinstance(entry, Mapping):
        raise UsageError(f"{where} is no table.", f"Write it as a table:\n{EXAMPLE}")
    if unknown := [str(key) for key in entry if key not in KEYS]:
        raise UsageError(f"{where} has the unknown key {visible(unknown[0])!r}.", nearest(unknown[0], KEYS))
    code = entry.get("code")
    if not isinstance(code, str) or not code:
        raise UsageError(f"{where} has no code.", f"Name one:\n{EXAMPLE}")
    where = f"The rule {visible(code)!r}"
    told = RULES.get(code)
    quantity, severity = entry.get("quantity", ""), entry.get("severity")
    if told is None and "quantity" not in entry:
        raise UsageError(
            f"No rule has the code {visible(code)!r}.",
            f'{nearest(code, sorted(RULES))}A rule of your own needs a quantity, as "sharpness.ratio", and a limit.',
        )
    if severity is not None and severity not in SEVERITIES:
        raise UsageError(f"{where} has the severity {severity!r}.", f"It may be {', '.join(SEVERITIES)}.")
    limits = {side: entry[side] for side in ("above", "below") if side in entry}
    if not all(type(limit) in (int, float) and math.isfinite(limit) for limit in limits.values()):
        raise UsageError(f"{where} has a limit that is no number.", "Write it as a number: above = 2.0")
    if told is not None and limits and not told.quantity:
        raise UsageError(f"{where} has no single number to hold against a limit.", "Leave above and below out.")
    if told is not None and "quantity" in entry:
        raise UsageError(f"{where} has its own quantity.", "Leave it out, or give your rule another code.")
    if len(limits) > 1 or (told is None and not limits):
        amount = "two limits" if limits else "no limit"
        raise UsageError(f"{where} has {amount}.", "Give above or below, as a number; write two rules for both.")
    if not all(isinstance(entry.get(key, ""), str) for key in ("quantity", "message", "hint")):
        raise UsageError(f"{where} has words that are no text.", "Write quantity, message and hint in quotes.")
    command = quantity.partition(".")[0]
    if told is None and command not in (commands := {rule.command for rule in RULES.values()}):
        raise UsageError(f"{where} asks no command of {visible(quantity)!r}.", nearest(command, sorted(commands)))
    layers = entry.get("layers", ["*"])
    patterns = [layers] if isinstance(layers, str) else layers
    if not isinstance(patterns, list) or not all(isinstance(one, str) for one in patterns):
        raise UsageError(f"{where} has layers that are no names.", 'Write a list of patterns: ["encoder.*"]')
    return UserRule(
        code=code,
        severity=severity or (None if told else "warn"),
        layers=tuple(patterns),
        quantity=str(quantity),
        message=str(entry.get("message", "")),
        hint=str(entry.get("hint", "")),
        **{side: float(limit) for side, limit in limits.items()},
    )


def apply(rules: Sequence[UserRule], findings: Sequence[Finding], results: Mapping[str, object]) -> list[Finding]:
    """The findings under the user's rules, each taken in its order.

    Of a code that `check` has, a limit keeps the findings beyond it: a stricter one than the command's finds no more.
    A rule with a code of its own judges its quantity. Raises UsageError for a quantity that is no number.
    """
    told = list(findings)
    for rule in rules:
        if rule.code not in RULES:
            told += judge_quantity(rule, results)
        changed = []
        for one in told:
            within = rule.limit is not None and one.value is not None and not rule.beyond(one.value)
            if not rule.meant(one):
                changed.append(one)
            elif rule.severity != "off" and not within:
                severity = cast("Severity", rule.severity or one.severity)
                changed.append(
                    replace(one, severity=severity, message=rule.message or one.message, hint=rule.hint or one.hint)
                )
        told = changed
    return told


def judge_quantity(rule: UserRule, results: Mapping[str, object]) -> Iterator[Finding]:
    """The findings of a rule that the user added, one for each layer that is beyond its limit."""
    furthest: dict[str | None, float] = {}
    for layer, value in quantity_values(results, rule.quantity):
        if rule.beyond(value):
            known_one = furthest.get(layer, value)
            furthest[layer] = max(known_one, value) if rule.above is not None else min(known_one, value)
    for layer, value in furthest.items():
        yield Finding(
            code=rule.code,
            severity="info",
            layer=layer,
            message=f"{rule.quantity} is {value:.4g}, {'above' if rule.above is not None else 'below'} your limit "
            f"{rule.limit:g}",
            value=value,
            limit=rule.limit,
        )


def quantity_values(results: Mapping[str, object], path: str) -> list[tuple[str | None, float]]:
    """The numbers at a path such as `norms.layers.first_to_last`, each with the layer that it is of.

    A list of layers stands for each of them, one of numbers for its last. Where the command did not look, there is
    none. Raises UsageError where its result has no such field.
    """
    command, *names = path.split(".")
    if command not in results:
        return []
    found: list[tuple[str | None, Any]] = [(None, results[command])]
    for name in names:
        found = [(layer, _field(held, name, path)) for layer, held in found]
        found = [entry for layer, held in found for entry in _spread(layer, held)]
    if any(is_dataclass(held) or isinstance(held, str | bool | Mapping) for _, held in found):
        raise UsageError(f"quantity {visible(path)!r} is no number.", "Go on to a number in it, as sharpness.ratio.")
    return [(layer, float(held)) for layer, held in found if isinstance(held, int | float)]


def _field(held: Any, name: str, path: str) -> Any:
    if isinstance(held, Mapping) and name in held:
        return held[name]
    if not is_dataclass(held) or isinstance(held, type):
        return None
    names = [entry.name for entry in fields(held)]
    if name not in names:
        raise UsageError(f"quantity {visible(path)!r}: there is no {visible(name)!r}.", nearest(name, names))
    return known(getattr(held, name))


def _spread(layer: str | None, held: Any) -> list[tuple[str | None, Any]]:
    if not isinstance(held, list | tuple):
        return [] if held is None else [(layer, held)]
    if held and is_dataclass(held[0]):
        return [(getattr(one, "name", getattr(one, "module", layer)), one) for one in held]
    return [(layer, held[-1])] if held else []
