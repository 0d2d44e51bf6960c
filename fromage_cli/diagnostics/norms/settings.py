"""The optimizer and its rate along a series, of all layers and of each: given, found in its state, or declared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.runs.layer_settings import run_settings
from fromage_cli.errors import UsageError
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, OPTIMIZER_UNKNOWN, Missing, Why
from fromage_cli.optimizers.effective_rate import FOREIGN_DECAY
from fromage_cli.optimizers.rule import NAME_IT, RULES
from fromage_cli.optimizers.settings import Given
from fromage_cli.terminal.optimizer_options import spelled
from fromage_cli.theory.equilibrium import Gains, momentum_gains
from fromage_cli.theory.growth import mean_over, orthogonal_growth, step_without_memory

if TYPE_CHECKING:
    from fromage_cli.problem.user_code.declared import Declared


@dataclass(frozen=True)
class Settings:
    """What is known of the training, of all layers together or of one."""

    optimizer: str | None = None
    learning_rates: tuple[float | None, ...] = (None,)
    """At each step."""
    weight_decay: float | None = None
    momentum: float | None = None
    betas: tuple[float, float] | None = None
    """Decay of the moments."""
    trust_coefficient: float = 1.0
    """What LARS multiplies its rate by."""
    coupled: bool = False
    """Whether the decay is part of what is rescaled, so that it has no rate of its own."""
    steps_per_epoch: int | None = None
    dampening: float = 0.0
    nesterov: bool = False
    clipped: bool = False
    """Whether the trust ratio is clipped, so that the step is not relative."""
    mixed_decay: bool = False
    """Whether parameter groups differ in weight decay, and which is meant is not known."""
    notes: tuple[str, ...] = ()
    """What the user should know of how they were found."""
    layers: Mapping[str, "Settings"] = field(default_factory=dict)
    """Those of single layers."""
    never_updated: frozenset[str] = frozenset()
    """Layers that have no slot in the optimizer's state beside others that have one."""

    @property
    def gains(self) -> Gains:
        """What one gradient does over the steps that follow, under momentum."""
        return momentum_gains(self.momentum or 0.0, self.dampening, self.nesterov)

    @property
    def no_prediction(self) -> Missing | None:
        """Why the growth of a scale-invariant layer cannot be predicted; None where it can."""
        name, unknown = self.optimizer, all(rate is None for rate in self.learning_rates)
        rescaled = f"{name} rescales its weight decay with its update, by a size that is not known"
        rule = RULES.get(name or "")
        other = rule.without.get("growth") if rule is not None else None
        reasons = (
            (name is None, OPTIMIZER_UNKNOWN),
            (other is not None, Missing(Why.NO_FORMULA, other or "")),
            (unknown, LEARNING_RATE_UNKNOWN),
            (self.clipped, Missing(Why.NO_FORMULA, f"the trust ratio of {name} is clipped")),
            (self.mixed_decay, Missing(Why.NO_FORMULA, "parameter groups differ in weight decay")),
            (self.coupled and rule is not None and rule.decay is None, FOREIGN_DECAY),
            (self.coupled, Missing(Why.NO_FORMULA, rescaled)),
        )
        return next((reason for holds, reason in reasons if holds), None)

    @property
    def flags(self) -> dict[str, object]:
        """What the flags became: the rate at the last step."""
        return {
            "optimizer": self.optimizer,
            "lr": self.learning_rates[-1],
            "momentum": self.momentum,
            "betas": spelled(self.betas),
            "weight_decay": self.weight_decay,
            "steps_per_epoch": self.steps_per_epoch,
        }

    def predicted_growth(self, steps: Sequence[int | None]) -> float | Missing:
        """By how much ln ‖W‖ of a scale-invariant layer grows in a step: the mean over the known rates.

        At one rate ½ ln(1+δ²) less what decoupled decay takes off, η·wd.
        """
        if self.no_prediction is not None or self.optimizer is None:
            return self.no_prediction or OPTIMIZER_UNKNOWN
        rule, total = RULES[self.optimizer], self.gains.total
        first_beta, _ = self.betas or rule.defaults.get("betas", (0.0, 0.0))
        known = [(step, rate) for step, rate in zip(steps, self.learning_rates, strict=True) if rate is not None]
        steps_alone = [
            step_without_memory(rule.averages, self.trust_coefficient * rate, total, first_beta) for _, rate in known
        ]
        growths = [
            orthogonal_growth(step) - rate * (self.weight_decay or 0.0)
            for step, (_, rate) in zip(steps_alone, known, strict=True)
        ]
        return mean_over([step for step, _ in known], growths)


def find_run_settings(
    checkpoints: Sequence[Checkpoint],
    names: Sequence[str],
    given: Given,
    declared: "Declared",
    *,
    decoupled: bool = False,
    steps_per_epoch: int | None = None,
    typed: Callable[[str], bool] = lambda parameter: True,
) -> Settings:
    """The settings along a series; what was given wins over the optimizer's state, that over what is declared.

    `decoupled`: whether LARS's decay goes past the gradient, η·wd a step. Raises UsageError for a typed
    setting that no optimizer here has.
    """
    run = run_settings(checkpoints, names, given, declared.optimizer)
    rule, epoch = run.optimizer.rule, steps_per_epoch or declared.steps_per_epoch
    if rule is None:
        for setting in ("learning_rate", "weight_decay", "momentum", "betas"):
            name = "lr" if setting == "learning_rate" else setting
            if getattr(given, setting) is not None and typed(name):
                raise UsageError(
                    f"--{name.replace('_', '-')} says nothing as long as the optimizer is unknown.",
                    hint=f"{NAME_IT}.",
                )
        unknown = Settings(None, (None,) * len(checkpoints), steps_per_epoch=epoch, notes=run.optimizer.notes)
        return replace(unknown, never_updated=run.found[-1].never_updated)

    def of_layer(name: str | None) -> Settings:
        group, decay, last = run.optimizer_of(name), run.decay(name), run.found[-1]
        rescaled = rule.relative and not (decoupled and rule.may_decouple)
        if rule.decay == "rescaled" and given.weight_decay is None:  # some implementations decay past the update
            rescaled = not last.of(name).get("weight_decouple") or bool(last.of(name).get("fixed_decay"))
        return Settings(
            optimizer=rule.name,
            learning_rates=run.rates(name),
            weight_decay=decay,
            momentum=group.momentum if rule.has("momentum") else None,
            betas=group.betas if rule.has("betas") else None,
            trust_coefficient=group.trust_coefficient,
            coupled=bool(decay) and rescaled,
            steps_per_epoch=epoch,
            dampening=group.dampening,
            nesterov=group.nesterov,
            clipped=group.trust_clip,
            mixed_decay=given.weight_decay is None and last.mixed_decay and name not in last.by_layer,
        )

    layers, never = {name: of_layer(name) for name in names}, run.found[-1].never_updated
    return replace(of_layer(None), notes=run.notes, layers=layers, never_updated=never)
