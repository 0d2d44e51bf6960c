"""Which optimizer trains with which settings: as the user says, else as a saved state does, else as declared."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fromage_cli.optimizers.recognition import ADAM_ALIKE, EITHER_ADAM
from fromage_cli.optimizers.rule import ADAM, ADAMW, FROMAGE, NAME_IT, RULES, Rule

OTHER_NAMES = {"trust_coefficient": "trust_coeff"}
"""What other implementations call a setting."""
ASSUMED = {
    "momentum": "momentum is not known; {} is",
    "betas": "betas are not known; {} are",
    "trust_coefficient": "trust coefficient is not known; {} is",
}
"""What is said of a setting that is not known, by its name."""
MANY_STEPS = 1e12
"""Updates after which no average is still biased by its start."""
ANOTHER_RATE = " To use another, give --lr."
"""What a note ends in where the command takes a rate."""
UNMATCHED_GROUPS = "optimizer: its parameter groups differ and cannot be matched to the layers by name or shape."


@dataclass(frozen=True)
class Given:
    """What was said of the optimizer, by the user or beside a checkpoint; None where nothing was."""

    name: str | None = None
    """One of RULES."""
    learning_rate: float | None = None
    momentum: float | None = None
    nesterov: bool = False
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    configured: bool = False
    """Whether the rate stands in a configuration or the environment, and was not typed."""

    def meant_for(self, name: str | None) -> "Given":
        """The same where it was said of that optimizer, or of none by name; else nothing."""
        return self if self.name in (None, name) else Given()


@dataclass(frozen=True)
class SavedSettings:
    """What a saved state says of its optimizer."""

    kind: str | None
    """As `recognise` names it."""
    groups: Sequence[Mapping[str, Any]] = ()
    """The settings of each parameter group."""
    members_known: bool = True
    """Whether it is known which tensors each group holds."""
    optimizers: Sequence[tuple[str, int]] = ()
    """The kind of each of several optimizers, and how many tensors it has."""
    steps: int | None = None
    """Updates made; None where it does not count them."""
    unread: tuple[str, ...] = ()
    """The forms of tensors in it that are not read."""

    @property
    def rule(self) -> str | None:
        """The one of RULES whose state it is; None where it is another's."""
        return ADAMW.name if self.kind == EITHER_ADAM else self.kind if self.kind in RULES else None

    def serves(self, name: str | None) -> bool:
        """Whether the state serves a rule of that name: Adam's moments serve AdamW, and what is alike serves both."""
        if self.kind == ADAM_ALIKE:
            return name in (ADAM.name, ADAMW.name)
        return self.rule is not None and (self.rule == name or {self.rule, name} <= {ADAM.name, ADAMW.name})


@dataclass(frozen=True)
class Optimizer:
    """An update rule with its settings."""

    name: str | None = None
    """One of RULES; None where it is not known."""
    learning_rate: float | None = None
    """The highest of any group."""
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    """The largest of any group."""
    decay_given: bool = False
    """Whether the decay holds for every tensor, whatever the groups in the state say."""
    notes: tuple[str, ...] = ()
    """What the user should know of how it was found."""
    common_notes: tuple[str, ...] = ()
    """The same for a command that takes one value for all tensors."""
    eps: Any = None
    """None takes the rule's own."""
    amsgrad: bool = False
    trust_coefficient: float = 1.0
    """Of LARS, whose rate times this is a relative step."""
    trust_clip: bool = False
    """Of LARS and LAMB: no step is longer than without scaling."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """Settings of this rule alone, as its class names them."""
    said: tuple[str, ...] = ()
    """Settings that the user gave, which hold for every group."""

    @property
    def rule(self) -> Rule | None:
        """Its record; None where it is not known."""
        return RULES.get(self.name or "")

    def has(self, setting: str) -> bool:
        """Whether its rule has a setting of that name."""
        return self.rule is not None and self.rule.has(setting)

    @property
    def arguments(self) -> dict[str, Any]:
        """What the class that steps takes beside the rate."""
        defaults = self.rule.defaults if self.rule is not None else {}
        found = {name: getattr(self, name, self.own.get(name, value)) for name, value in defaults.items()}
        return found | ({"eps": self.epsilon} if "eps" in found and self.eps is None else {})

    def with_settings(self, settings: Mapping[str, Any]) -> "Optimizer":
        """The same with other settings, by the names that its class gives them."""
        fields = {name: value for name, value in settings.items() if name in self.__dataclass_fields__}
        fields.pop("weight_decay", None)
        own = {name: value for name, value in settings.items() if name not in self.__dataclass_fields__}
        if "eps" in fields and self.rule is not None and fields["eps"] == self.rule.defaults["eps"]:
            fields["eps"] = None
        if not fields.get("momentum", self.momentum):
            fields["dampening"] = 0.0  # without a buffer torch takes none
        return replace(self, **fields, own={**self.own, **own})

    def of_group(self, settings: Mapping[str, Any]) -> "Optimizer":
        """The rule with one group's own settings but rate and decay, as far as the user gave no others."""
        own = _saved(self.rule, settings) if self.rule is not None else {}
        return self.with_settings({name: value for name, value in own.items() if name not in self.said})

    @property
    def flags(self) -> dict[str, object]:
        """Its settings as flags would give them, by name; None for those that it does not have."""
        return {
            "optimizer": self.name,
            "lr": self.learning_rate,
            "momentum": self.momentum if self.has("momentum") else None,
            "nesterov": self.nesterov if self.has("nesterov") else None,
            "betas": ",".join(f"{beta:g}" for beta in self.betas) if self.has("betas") else None,
            "weight_decay": self.weight_decay if self.name is not None else None,
        }

    @property
    def adaptive(self) -> bool:
        """Whether its threshold is one of the preconditioned Hessian."""
        return self.rule is not None and self.rule.adaptive

    @property
    def remembers(self) -> bool:
        """Whether its step depends on gradients before the present one."""
        return self.momentum > 0.0 or (self.rule is not None and bool(self.rule.slots) and not self.has("momentum"))

    def contraction(self, rate: float) -> float:
        """What a step of that rate multiplies the weights by in the end: 1 / sqrt(1 + rate^2) for Fromage."""
        return 1.0 / math.hypot(1.0, rate) if self.rule is FROMAGE else 1.0

    @property
    def epsilon(self) -> Any:
        """What is added to a root or a norm before it divides; of Adafactor two numbers."""
        return self.eps if self.eps is not None else (self.rule or ADAM).defaults.get("eps", ADAM.defaults["eps"])

    @property
    def coupled_decay(self) -> float:
        """What weight decay adds to the curvature."""
        return self.weight_decay if self.rule is None or self.rule.decay in ("coupled", None) else 0.0


def find_settings(given: Given, saved: SavedSettings | None, declared: Given) -> Optimizer:
    """The optimizer that a checkpoint was, or would be, trained with.

    A state's settings count only where its rule is the one asked for; `Optimizer.of_group` has those of other groups
    than the first.
    """
    open_to = saved is None or saved.kind is None or (saved.kind == EITHER_ADAM and saved.serves(declared.name))
    given = replace(given, name=given.name or (declared.name if open_to else None))
    name = given.name or (saved.rule if saved is not None else None)
    declared, others = declared.meant_for(name), declared
    groups = saved.groups if saved is not None and saved.serves(name) else ()
    rates = [float(settings["lr"]) for settings in groups if settings.get("lr") is not None]
    decays = [float(decay) for settings in groups if (decay := settings.get("weight_decay")) is not None]
    rate = first_known(given.learning_rate, max(rates, default=None), declared.learning_rate)
    notes = [*_notes_on_the_state(given, saved, name), *_notes_on_the_rate(given, declared, others, name, rates)]
    if rate == 0.0:
        steps = saved.steps if saved is not None else None
        begins = "the first step of a warm-up" + (" or the end of its schedule" if steps is None else "")
        where = begins if steps is None or steps < 2 else "the end of its schedule"
        notes.append(f"optimizer: the rate in the checkpoint is 0, as at {where}.{ANOTHER_RATE}")
    found = Optimizer(
        name=name,
        learning_rate=rate or None,
        weight_decay=float(first_known(given.weight_decay, max(decays, default=None), declared.weight_decay) or 0.0),
        decay_given=given.weight_decay is not None or not decays,
        said=(
            *(key for key in ("momentum", "betas") if getattr(given, key) is not None),
            *(("nesterov",) if given.nesterov else ()),
        ),
    )
    rule = found.rule
    if rule is None:
        return replace(found, notes=tuple(notes))
    said = {key: getattr(given, key) for key in found.said}
    told = {key: value for key in ("momentum", "betas") if (value := getattr(declared, key)) is not None}
    known = {**told, **(_saved(rule, groups[0]) if groups else {}), **said}
    known = {key: value for key, value in known.items() if rule.has(key)}
    for key, words in ASSUMED.items():
        if rule.has(key) and key not in known:
            default = rule.defaults[key]
            spelled = ", ".join(f"{part:g}" for part in (default if isinstance(default, tuple) else (default,)))
            notes.append(f"optimizer: the {words.format(spelled)} taken.")
    unsaid = [key for key in ("betas", "momentum", "dampening", "nesterov") if rule.has(key) and key not in said]
    differ = [key for key in unsaid if len({str(settings.get(key)) for settings in groups}) > 1]
    common_notes = []
    if rule.has("weight_decay") and not decays and given.weight_decay is declared.weight_decay is None:
        common_notes.append("optimizer: the weight decay is not known; 0 is taken. To change it, give --weight-decay.")
    if differ:
        words = f"{' and '.join(differ)}; thresholds and noise use those of the first group"
        common_notes.append(f"optimizer: parameter groups differ in {words}.")
    if given.learning_rate is None and len(set(rates)) > 1 and saved is not None:
        all_alike = (
            "" if saved.members_known else " for all tensors, as it is not known which tensor belongs to which group"
        )
        common_notes.append(
            f"optimizer: the groups have rates from {min(rates):g} to {max(rates):g}; the largest is taken{all_alike}."
        )
    return replace(
        found.with_settings({**rule.defaults, **known}), notes=tuple(notes), common_notes=tuple(common_notes)
    )


def _notes_on_the_state(given: Given, saved: SavedSettings | None, name: str | None) -> list[str]:
    """Whether it is used, and what it leaves open."""
    if saved is None or saved.kind is None:
        return []
    words = None
    if len({kind for kind, _ in saved.optimizers}) > 1 and not saved.serves(name):
        held = " and ".join(f"{kind} ({count} tensors)" for kind, count in saved.optimizers)
        then = (
            f"none of them is used for {name}"
            if name
            else "to use one, with the tensors that it moves, give --optimizer NAME"
        )
        words = f"the checkpoint holds the states of several, {held}; {then}"
    elif given.name is not None and not saved.serves(name):
        words = f"the checkpoint holds the state of {saved.kind}; it is not used for {name}"
    elif given.name is None and saved.kind == EITHER_ADAM:
        words = f"the state does not say whether it belongs to {EITHER_ADAM}; {ADAMW.name} is taken"
    elif given.name is None and saved.kind == ADAM_ALIKE:
        alike = "the state looks like Adam's but lacks some of Adam's settings; it may be that of Yogi or NAdamW"
        words = f"{alike}; to use it, give --optimizer {ADAM.name} or --optimizer {ADAMW.name}"
    elif given.name is None and saved.rule is None:
        words = f"the checkpoint holds the state of {saved.kind}, which is not supported; {NAME_IT}"
    notes = [f"optimizer: {words}."] if words is not None else []
    if saved.unread and saved.serves(name):
        notes.append(f"optimizer: its state holds {' and '.join(saved.unread)}, which is not read. It counts as empty.")
    return notes


def _notes_on_the_rate(
    given: Given, declared: Given, others: Given, name: str | None, rates: Sequence[float]
) -> list[str]:
    """What became of a rate that was declared or configured, where the checkpoint's is another.

    `others`: what is declared, also where it is for another optimizer.
    """
    if others.learning_rate is not None and declared is not others:
        other = name or "that of the checkpoint"
        return [f"optimizer: the configured rate {others.learning_rate:g} is for {others.name}, not for {other}."]
    configured = given.learning_rate if given.configured else None
    rate = first_known(configured, declared.learning_rate if given.learning_rate is None else None)
    if rate is None or not rates or math.isclose(rate, max(rates), rel_tol=1e-6):
        return []
    taken = "it" if configured is not None else "the checkpoint's"
    how = "configured" if configured is not None else "declared"
    return [f"optimizer: the rate {rate:g} is {how}, the checkpoint's is {max(rates):g}; {taken} is taken."]


def _saved(rule: Rule, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One group's settings that the rule has but its decay, as the kinds of value that its class takes."""
    found = {}
    for name, default in rule.defaults.items():
        value = first_known(settings.get(name), settings.get(OTHER_NAMES.get(name, name)))
        if value is None or name == "weight_decay":
            continue
        if isinstance(default, tuple):
            found[name] = tuple(None if part is None else float(part) for part in value)
        else:
            found[name] = type(default)(value) if default is not None else value
    return found


def corrects_bias(settings: Mapping[str, Any]) -> bool:
    """Whether Adam's means are corrected for their start at 0, unless a group's settings switch that off.

    Apex and DeepSpeed call that setting `bias_correction`, transformers `correct_bias`.
    """
    return all(settings.get(name) is not False for name in ("bias_correction", "correct_bias"))


def beta1_range(settings: Mapping[str, Any], beta1: float) -> tuple[float, float]:
    """The least and the largest beta1 of a run; OneCycleLR and CyclicLR change it, and save between which values."""
    told = [settings.get(name) for name in ("base_momentum", "max_momentum")]
    between = [float(value) for value in told if isinstance(value, int | float) and 0.0 <= value < 1.0]
    return min([beta1, *between]), max([beta1, *between])


def first_known(*values: Any) -> Any:
    """The first value that is known."""
    return next((value for value in values if value is not None), None)
