"""Which optimizer trains with which settings: as the user says, else from the checkpoint's state, else as declared."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.checkpoints.optimizers.optimizer_kind import EITHER_ADAM, optimizer_kind
from fromage_cli.checkpoints.optimizers.optimizer_state import slot_shape
from fromage_cli.problem.user_code.declared import Declared

RELATIVE = ("fromage", "lars", "lamb")
"""Their rate is a relative step."""
OPTIMIZERS = (*RELATIVE, "sgd", "adam", "adamw", "lion", "muon")
ADAPTIVE = ("adam", "adamw")
DECOUPLED = ("adamw", "lamb", "lion", "muon")
"""Their weight decay goes past the gradient."""
WITH_MOMENTUM = ("sgd", "lars", "muon")
WITH_BETAS = ("adam", "adamw", "lamb", "lion")
BETAS = {"lion": (0.9, 0.99)}
OTHER_BETAS = (0.9, 0.999)
EPSILONS = {"lamb": 1e-6, "muon": 1e-7}
OTHER_EPSILON = 1e-8
MOMENTA = {"muon": 0.95}
"""What torch, or the paper where torch has no such optimizer, takes when nothing is said."""
NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
"""Coefficients of Muon's iteration."""


@dataclass(frozen=True)
class Given:
    """What the user said; None where nothing was."""

    name: str | None = None
    """One of OPTIMIZERS."""
    learning_rate: float | None = None
    momentum: float | None = None
    nesterov: bool = False
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None


@dataclass(frozen=True)
class Optimizer:
    """An update rule with its settings."""

    name: str | None = None
    """One of OPTIMIZERS, `adam` with coupled decay, `adamw` with decoupled; None where it is not known."""
    learning_rate: float | None = None
    """The highest of any group."""
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = OTHER_BETAS
    weight_decay: float = 0.0
    """The largest of any group."""
    decay_given: bool = False
    """Whether the decay holds for every tensor, whatever the groups in the state say."""
    notes: tuple[str, ...] = ()
    eps: float | None = None
    """None takes what `epsilon` says."""
    amsgrad: bool = False
    trust_coefficient: float = 1.0
    """Of LARS, whose rate times this is a relative step."""
    trust_clip: bool = False
    """Of LARS and LAMB: no step is longer than without scaling."""
    newton_schulz_steps: int = 5
    newton_schulz_coefficients: tuple[float, float, float] = NEWTON_SCHULZ
    adjust_lr_fn: str | None = None
    """How Muon's rate follows the shape of a matrix: `original` (None) or `match_rms_adamw`."""
    said: tuple[str, ...] = ()
    """Settings that the user gave, which hold for every group."""

    def of_group(self, settings: Mapping[str, Any]) -> "Optimizer":
        """The rule with one group's own settings, as far as the user gave no others."""
        own: dict[str, Any] = {}
        if self.name in WITH_BETAS and settings.get("betas") is not None:
            own["betas"] = _betas(settings["betas"])
        if self.name in WITH_MOMENTUM:
            own |= {key: float(settings[key]) for key in ("momentum", "dampening") if settings.get(key) is not None}
            own |= {"nesterov": bool(settings["nesterov"])} if "nesterov" in settings else {}
        if self.name not in (None, "lars") and settings.get("eps") is not None:
            own["eps"] = float(settings["eps"])
        own = {key: value for key, value in own.items() if key not in self.said and value != getattr(self, key)}
        return replace(self, **own) if own else self

    @property
    def flags(self) -> dict[str, object]:
        """Its settings as flags would give them, by name; None for those that it does not have."""
        heavy, moments = self.name in WITH_MOMENTUM, self.name in WITH_BETAS
        return {
            "optimizer": self.name,
            "lr": self.learning_rate,
            "momentum": self.momentum if heavy else None,
            "nesterov": self.nesterov if heavy else None,
            "betas": ",".join(f"{beta:g}" for beta in self.betas) if moments else None,
            "weight_decay": self.weight_decay if self.name is not None else None,
        }

    @property
    def adaptive(self) -> bool:
        """Whether its threshold is one of the preconditioned Hessian."""
        return self.name in ADAPTIVE

    @property
    def remembers(self) -> bool:
        """Whether its step depends on gradients before the present one."""
        return self.name in WITH_BETAS or self.momentum > 0.0

    def contraction(self, rate: float) -> float:
        """What a step of that rate multiplies the weights by in the end: 1 / sqrt(1 + rate^2) for Fromage."""
        return 1.0 / math.hypot(1.0, rate) if self.name == "fromage" else 1.0

    @property
    def epsilon(self) -> float:
        """What is added to a root or a norm before it divides."""
        return EPSILONS.get(self.name or "", OTHER_EPSILON) if self.eps is None else self.eps

    @property
    def coupled_decay(self) -> float:
        """What weight decay adds to the curvature."""
        return 0.0 if self.name in DECOUPLED else self.weight_decay


def optimizer_of(given: Given, state: OptimizerState | None, declared: Declared) -> Optimizer:
    """The optimizer that a checkpoint was, or would be, trained with.

    Settings of a state count only where its rule is the one asked for.
    """
    saved = saved_rule(state)
    name = given.name or saved
    groups = [group.settings for group in state.groups] if state is not None and same_rule(saved, name) else []
    rates = [_number(settings, "lr") for settings in groups]
    decays = [_number(settings, "weight_decay") for settings in groups]
    first = groups[0] if groups else {}
    rate = _first(given.learning_rate, max(rates, default=None), declared.learning_rate)
    own = name or ""
    momentum = _first(given.momentum, first.get("momentum"), declared.momentum, MOMENTA.get(own))
    heavy = float(momentum or 0.0) if own in ("", *WITH_MOMENTUM) else 0.0
    return Optimizer(
        name=name,
        learning_rate=rate or None,
        momentum=heavy,
        dampening=float(first.get("dampening") or 0.0) if heavy else 0.0,  # without a buffer torch takes none
        nesterov=given.nesterov or bool(first.get("nesterov", own == "muon")),
        betas=_betas(_first(given.betas, first.get("betas"), declared.betas, BETAS.get(own, OTHER_BETAS))),
        weight_decay=float(_first(given.weight_decay, max(decays, default=None), declared.weight_decay) or 0.0),
        decay_given=given.weight_decay is not None or not decays,
        notes=(*_notes(given, state, name, rates, rate), *_differing(given, groups, name)),
        eps=_optional(first, "eps") if own not in ("", "lars") else None,
        amsgrad=bool(first.get("amsgrad")),
        trust_coefficient=float(_first(first.get("trust_coefficient"), first.get("trust_coeff"), 1.0)),
        trust_clip=bool(first.get("trust_clip")),
        newton_schulz_steps=int(first.get("ns_steps", 5)),
        newton_schulz_coefficients=_three(first.get("ns_coefficients", NEWTON_SCHULZ)),
        adjust_lr_fn=first.get("adjust_lr_fn"),
        said=tuple(key for key in ("momentum", "nesterov", "betas") if getattr(given, key) not in (None, False)),
    )


def _notes(
    given: Given, state: OptimizerState | None, name: str | None, rates: list[float], rate: float | None
) -> tuple[str, ...]:
    """What the user should know of how the optimizer was found."""
    notes, kind = [], optimizer_kind(state) if state is not None else None
    if given.learning_rate is None and len(set(rates)) > 1:
        all_alike = "" if tells_rates(state) else " for all: which tensors are whose is not told"
        notes.append(
            f"optimizer: groups with rates from {min(rates):g} to {max(rates):g}; the largest is taken{all_alike}."
        )
    if rate == 0.0:
        notes.append("optimizer: the rate in the checkpoint is 0, the end of its schedule; --lr gives another.")
    if kind == EITHER_ADAM and given.name is None:
        notes.append("optimizer: the state does not say whether it is of adam or adamw; adamw is taken.")
    if kind is not None and kind != EITHER_ADAM and kind not in OPTIMIZERS and given.name is None:
        notes.append(f"optimizer: the checkpoint holds the state of {kind}, which is not covered here.")
    if given.name is not None and saved_rule(state) is not None and not same_rule(saved_rule(state), name):
        notes.append(f"optimizer: the checkpoint holds the state of {saved_rule(state)}; it is not used for {name}.")
    return tuple(notes)


def _differing(given: Given, groups: Sequence[Mapping[str, Any]], name: str | None) -> tuple[str, ...]:
    """A note where groups differ in more than rate and decay, and the user did not say otherwise."""
    own = ("betas",) if name in WITH_BETAS else ("momentum", "dampening", "nesterov") if name in WITH_MOMENTUM else ()
    unsaid = [key for key in own if getattr(given, key, None) in (None, False)]
    differ = [key for key in unsaid if len({str(settings.get(key)) for settings in groups}) > 1]
    if not differ:
        return ()
    return (f"optimizer: groups differ in {' and '.join(differ)}; thresholds and noise are taken as in the first.",)


def tells_members(state: OptimizerState) -> bool:
    """Whether it can be told which tensors each group holds: by the shapes of slots, or by names."""
    return any(slot_shape(slot) for slot in state.slots.values()) or all(
        group.names is not None for group in state.groups
    )


def tells_rates(state: OptimizerState | None) -> bool:
    """Whether every tensor's rate is known: one for all, or that of its group."""
    rates = {_number(group.settings, "lr") for group in state.groups} if state is not None else set()
    return state is None or len(rates) < 2 or tells_members(state)


def same_rule(saved: str | None, name: str | None) -> bool:
    """Whether a state of one rule serves the other: Adam's moments serve AdamW."""
    return saved is not None and (saved == name or {saved, name} <= set(ADAPTIVE))


def saved_rule(state: OptimizerState | None) -> str | None:
    """The one of OPTIMIZERS that a state belongs to; None where it is another's."""
    kind = optimizer_kind(state) if state is not None else None
    return "adamw" if kind == EITHER_ADAM else kind if kind in OPTIMIZERS else None


def state_of(optimizer: Optimizer, state: OptimizerState | None) -> OptimizerState | None:
    """The state where it holds what this optimizer remembers."""
    return state if same_rule(saved_rule(state), optimizer.name) else None


def _number(settings: Mapping[str, Any], name: str) -> float:
    return float(settings.get(name) or 0.0)


def _optional(settings: Mapping[str, Any], name: str) -> float | None:
    value = settings.get(name)
    return None if value is None else float(value)


def _betas(pair: Any) -> tuple[float, float]:
    first, second = (float(beta) for beta in pair)
    return first, second


def _three(numbers: Any) -> tuple[float, float, float]:
    first, second, third = (float(number) for number in numbers)
    return first, second, third


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
