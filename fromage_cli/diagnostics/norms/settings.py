"""The optimizer and its rate along a series: given, found in its state, or declared beside the checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints import Checkpoint, OptimizerState
from fromage_cli.errors import UsageError
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, OPTIMIZER_UNKNOWN, Missing, Why
from fromage_cli.optimizers.rule import FROMAGE, LAMB, LARS, RULES
from fromage_cli.theory.equilibrium import Gains, momentum_gains

if TYPE_CHECKING:
    from fromage_cli.problem.user_code.declared import Declared

RELATIVE = tuple(rule.name for rule in RULES.values() if rule.relative)
FIRST_BETA = 0.9
"""β₁ of LAMB where nothing says it: the default of every implementation."""


@dataclass(frozen=True)
class Settings:
    """What is known of the training; as arguments, what the user said of it."""

    optimizer: str | None = None
    learning_rates: tuple[float | None, ...] = (None,)
    """At each step; one number where the user gave it."""
    weight_decay: float | None = None
    momentum: float | None = None
    betas: tuple[float, float] | None = None
    """Decay of the moments."""
    trust_coefficient: float = 1.0
    """What LARS multiplies its rate by."""
    coupled: bool = False
    """Whether the decay is part of what is rescaled, so that it has no rate of its own."""
    decoupled: bool = False
    """As an argument: whether LARS's decay goes past the gradient, η·wd a step."""
    steps_per_epoch: int | None = None
    dampening: float = 0.0
    nesterov: bool = False
    clipped: bool = False
    """Whether the trust ratio is clipped, so that the step is not relative."""
    mixed_decay: bool = False
    """Whether parameter groups differ in weight decay."""

    @property
    def first_beta(self) -> float | None:
        """Decay of the first moment."""
        return self.betas[0] if self.betas is not None else None

    @property
    def gains(self) -> Gains:
        """What one gradient does over the steps that follow, under momentum."""
        return momentum_gains(self.momentum or 0.0, self.dampening, self.nesterov)

    @property
    def no_law(self) -> Missing | None:
        """Why the growth of a scale-invariant layer cannot be told; None where it can."""
        name, unknown = self.optimizer, all(rate is None for rate in self.learning_rates)
        foreign = (
            "Fromage has no weight decay of its own, and how the one found in its state or declared acts is not known"
        )
        rescaled = f"{name} rescales its weight decay with its update, by a size that is not known"
        reasons = (
            (name is None, OPTIMIZER_UNKNOWN),
            (name not in RELATIVE, Missing(Why.NO_FORMULA, f"the learning rate of {name} is no relative step")),
            (unknown, LEARNING_RATE_UNKNOWN),
            (self.clipped, Missing(Why.NO_FORMULA, f"the trust ratio of {name} is clipped")),
            (self.mixed_decay, Missing(Why.NO_FORMULA, "parameter groups differ in weight decay")),
            (self.coupled and name == FROMAGE.name, Missing(Why.NO_FORMULA, foreign)),
            (self.coupled, Missing(Why.NO_FORMULA, rescaled)),
        )
        return next((reason for holds, reason in reasons if holds), None)

    @property
    def assumed(self) -> tuple[str, ...]:
        """What the law takes for want of knowing."""
        lars = self.optimizer == LARS.name
        assumptions = (
            (self.optimizer == LAMB.name and self.first_beta is None, f"β₁ is not known, {FIRST_BETA} is taken"),
            (lars and self.momentum is None, "the momentum is not known, 0 is taken"),
        )
        return tuple(words for holds, words in assumptions if holds)


def find_settings(
    checkpoints: Sequence[Checkpoint],
    declared: "Declared",
    given: Settings,
    typed: Callable[[str], bool] = lambda parameter: True,
) -> Settings:
    """The settings along a series; what was given wins over the optimizer's state, that over what is declared.

    Raises UsageError where a setting is typed that says nothing, for want of an optimizer that has it.
    """
    states = [checkpoint.optimizer for checkpoint in checkpoints]
    optimizer = given.optimizer or next((kind for state in states if (kind := _kind(state))), None)
    steps_per_epoch = given.steps_per_epoch or declared.steps_per_epoch
    _refuse_idle(given, optimizer, typed)
    if optimizer is None:
        return Settings(None, (None,) * len(checkpoints), steps_per_epoch=steps_per_epoch)
    (rate,), last = given.learning_rates, states[-1]
    decay = _first(given.weight_decay, _setting(last, "weight_decay"), declared.weight_decay)
    return Settings(
        optimizer=optimizer,
        learning_rates=tuple(_first(rate, _setting(state, "lr"), declared.learning_rate) for state in states),
        weight_decay=decay,
        momentum=_first(given.momentum, _setting(last, "momentum"), declared.momentum),
        betas=given.betas or _pair(last) or declared.betas,
        trust_coefficient=_first(_setting(last, "trust_coefficient"), _setting(last, "trust_coeff"), 1.0) or 1.0,
        coupled=bool(decay) and _is_coupled(optimizer, last, given),
        steps_per_epoch=steps_per_epoch,
        dampening=_setting(last, "dampening") or 0.0,
        nesterov=bool(_setting(last, "nesterov")),
        clipped=bool(_setting(last, "trust_clip")),
        mixed_decay=given.weight_decay is None and _differ(last, "weight_decay"),
    )


def _is_coupled(optimizer: str, state: OptimizerState | None, given: Settings) -> bool:
    """Whether that optimizer rescales its decay: LAMB by its rule, LARS unless its decay was said to be decoupled."""
    if optimizer == LAMB.name:
        decoupled = _setting(state, "weight_decouple") and not _setting(state, "fixed_decay")
        return given.weight_decay is not None or not decoupled
    return optimizer in RELATIVE and not given.decoupled


def _refuse_idle(given: Settings, optimizer: str | None, typed: Callable[[str], bool]) -> None:
    """What is configured for several commands may say nothing to this one."""
    (rate,) = given.learning_rates
    for flag, value in (("--lr", rate), ("--weight-decay", given.weight_decay)):
        if value is not None and optimizer is None and typed(flag[2:].replace("-", "_")):
            raise UsageError(
                f"{flag} says nothing as long as the optimizer is unknown.",
                hint=f"Add --optimizer, one of {', '.join(RULES)}.",
            )
    for flag, said, rule in (
        ("--momentum", given.momentum is not None, LARS.name),
        ("--betas", given.betas is not None, LAMB.name),
        ("--decoupled", given.decoupled, LARS.name),
    ):
        if said and optimizer != rule and typed(flag[2:]):
            raise UsageError(
                f"{flag} changes the law of growth of {rule} alone; the optimizer is {optimizer or 'unknown'}.",
                hint=f"Leave it out, or give --optimizer {rule}.",
            )


def _first(*values: float | None) -> float | None:
    """The first value that is known."""
    return next((value for value in values if value is not None), None)


def _kind(state: OptimizerState | None) -> str | None:
    return state.settings.rule if state is not None else None


def _setting(state: OptimizerState | None, name: str) -> float | None:
    """A setting that all parameter groups share; None where they differ or have none."""
    values = {group.settings.get(name) for group in state.groups if name in group.settings} if state else set()
    value = values.pop() if len(values) == 1 else None
    return float(value) if isinstance(value, int | float) else None


def _differ(state: OptimizerState | None, name: str) -> bool:
    return len({group.settings.get(name) for group in state.groups}) > 1 if state else False


def _pair(state: OptimizerState | None) -> tuple[float, float] | None:
    pair: Any = state.groups[0].settings.get("betas") if state is not None and state.groups else None
    return (float(pair[0]), float(pair[1])) if isinstance(pair, list | tuple) and len(pair) == 2 else None
