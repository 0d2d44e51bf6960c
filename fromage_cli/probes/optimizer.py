"""Which optimizer trains with which settings: as the user says, else from the checkpoint's state, else as declared."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.problem.beside import Declared
from fromage_cli.theory.stability import adam_threshold, adamw_threshold, momentum_threshold, nesterov_threshold

ADAPTIVE = ("adam", "adamw")
BETAS = (0.9, 0.999)
"""What torch's Adam takes when nothing is said."""


@dataclass(frozen=True)
class Given:
    """What the user said; None where nothing was."""

    name: str | None = None
    """`sgd`, `adam` or `adamw`."""
    learning_rate: float | None = None
    momentum: float | None = None
    nesterov: bool = False
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None


@dataclass(frozen=True)
class Optimizer:
    """An update rule with its settings."""

    name: str | None = None
    """`sgd`, `adam` (its decay coupled), `adamw` (decoupled); None where it is not known."""
    learning_rate: float | None = None
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = BETAS
    weight_decay: float = 0.0
    """The largest of any group."""
    decay_given: bool = False
    """Whether the decay holds for every tensor, whatever the groups in the state say."""
    notes: tuple[str, ...] = ()

    @property
    def adaptive(self) -> bool:
        """Whether its threshold is one of the preconditioned Hessian."""
        return self.name in ADAPTIVE

    @property
    def plain(self) -> bool:
        """Whether it is plain gradient descent."""
        return self.name == "sgd" and self.momentum == 0.0

    @property
    def coupled_decay(self) -> float:
        """What weight decay adds to the curvature."""
        return 0.0 if self.name == "adamw" else self.weight_decay

    @property
    def threshold(self) -> float | None:
        """The largest curvature at which its updates are stable; None where rate or rule is not known."""
        rate = self.learning_rate
        if rate is None or self.name is None:
            return None
        if self.name == "adam":
            return adam_threshold(rate, self.betas[0])
        if self.name == "adamw":
            return adamw_threshold(rate, self.betas[0], self.weight_decay)
        if self.nesterov:
            return nesterov_threshold(rate, self.momentum)
        return momentum_threshold(rate, self.momentum, self.dampening)


def optimizer_of(given: Given, state: OptimizerState | None, declared: Declared) -> Optimizer:
    """The optimizer that a checkpoint was, or would be, trained with.

    Settings of a state count only where its rule is the one asked for.
    """
    saved = _saved_name(state)
    name = given.name or saved
    groups = [group.settings for group in state.groups] if state is not None and same_rule(saved, name) else []
    rates = [_number(settings, "lr") for settings in groups]
    decays = [_number(settings, "weight_decay") for settings in groups]
    first = groups[0] if groups else {}
    rate = _first(given.learning_rate, max(rates, default=None), declared.learning_rate)
    notes = []
    if given.learning_rate is None and len(set(rates)) > 1:
        notes.append(f"optimizer: groups with rates from {min(rates):g} to {max(rates):g}; the largest is taken.")
    if rate == 0.0:
        notes.append("optimizer: the rate in the checkpoint is 0, the end of its schedule; --lr gives another.")
    return Optimizer(
        name=name,
        learning_rate=rate or None,
        momentum=float(_first(given.momentum, first.get("momentum"), declared.momentum) or 0.0),
        dampening=float(first.get("dampening") or 0.0),
        nesterov=given.nesterov or bool(first.get("nesterov")),
        betas=_betas(_first(given.betas, first.get("betas"), declared.betas, BETAS)),
        weight_decay=float(_first(given.weight_decay, max(decays, default=None), declared.weight_decay) or 0.0),
        decay_given=given.weight_decay is not None or not decays,
        notes=tuple(notes),
    )


def same_rule(saved: str | None, name: str | None) -> bool:
    """Whether a state of one rule serves the other: Adam's moments serve AdamW."""
    return saved is not None and (saved == name or {saved, name} <= set(ADAPTIVE))


def _saved_name(state: OptimizerState | None) -> str | None:
    """The rule that a state belongs to, by the settings that torch keeps in it; None where it is another's."""
    if state is None or not state.groups:
        return None
    settings = state.groups[0].settings
    if {"momentum", "dampening", "nesterov"} <= set(settings):
        return "sgd"
    if {"betas", "eps", "amsgrad"} <= set(settings):
        decoupled = settings.get("decoupled_weight_decay")
        return "adam" if decoupled is False or not (decoupled or _number(settings, "weight_decay")) else "adamw"
    return None


def state_of(optimizer: Optimizer, state: OptimizerState | None) -> OptimizerState | None:
    """The state where it holds what this optimizer remembers."""
    return state if same_rule(_saved_name(state), optimizer.name) else None


def _number(settings: Mapping[str, Any], name: str) -> float:
    return float(settings.get(name) or 0.0)


def _betas(pair: Any) -> tuple[float, float]:
    first, second = (float(beta) for beta in pair)
    return first, second


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
