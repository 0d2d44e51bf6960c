"""How a run is trained: rule, rates and decays by layer – given, found in the optimizer's state, or declared beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.runs.layer_settings import RunSettings, run_settings
from fromage_cli.checkpoints.runs.saved_schedule import updates_made
from fromage_cli.errors import UsageError
from fromage_cli.intake import RunSchedule
from fromage_cli.optimizers.rule import NAME_IT, RULES, Rule
from fromage_cli.optimizers.settings import Given, Optimizer, first_known
from fromage_cli.terminal.optimizer_options import spelled
from fromage_cli.theory.equilibrium import Gains, momentum_gains
from fromage_cli.theory.schedules import Schedule

if TYPE_CHECKING:
    from fromage_cli.problem.user_code.declared import Declared


@dataclass(frozen=True)
class Training:
    """The rule, and every layer's settings."""

    optimizer: str
    gains: Gains = field(default_factory=Gains)
    momentum: float | None = None
    nesterov: bool = False
    betas: tuple[float, float] | None = None
    trust: float = 1.0
    """LARS: relative step over learning rate."""
    decoupled: bool = False
    rates: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """By layer, at each checkpoint."""
    decays: Mapping[str, float | None] = field(default_factory=dict)
    """By layer."""
    steps_per_epoch: int | None = None
    variant: str | None = None
    """What makes the rule another one than theory speaks of."""
    clipped: bool = False
    """Whether the trust ratio is clipped, so that the step is not relative."""
    notes: tuple[str, ...] = ()
    rules: Mapping[str, Optimizer] = field(default_factory=dict)
    """By layer: the rule with the settings of its group."""
    never_updated: frozenset[str] = frozenset()
    """Layers that have no slot in the optimizer's state beside others that have one."""
    slots: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By layer: what the optimizer remembers of it after the last checkpoint."""
    schedule: Schedule | None = field(default_factory=Schedule)
    """Of the rate; None where it changes, and how is not known."""
    schedule_source: str | None = None
    """The file that has it."""
    schedule_doubt: str | None = None
    """Why the rate is not constant, where its schedule is not known."""
    schedule_gap: float | None = None
    """Largest distance of saved rates from the schedule, in shares of the peak."""
    peaks: Mapping[str, float | None] = field(default_factory=dict)
    """By layer: the rate where the schedule's factor is 1; else the rate at the last checkpoint."""

    @property
    def rule(self) -> Rule | None:
        """Its record; None for one of which nothing but settings is known."""
        return RULES.get(self.optimizer)

    @property
    def takes_gradients(self) -> bool:
        """Whether the equilibrium norm depends on how large gradients are."""
        if self.rule is None or self.decoupled:
            return False
        return self.rule.decay == "coupled" and self.rule.step_size in ("gradient", "weights")

    @property
    def flags(self) -> dict[str, object]:
        """What the flags became; of several layers' rates and decays the largest."""
        rates = [rates[-1] for rates in self.rates.values() if rates[-1] is not None]
        return {
            "optimizer": self.optimizer,
            "lr": max(rates, default=None),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "betas": spelled(self.betas),
            "weight_decay": max((decay for decay in self.decays.values() if decay is not None), default=None),
            "decoupled": self.decoupled,
            "steps_per_epoch": self.steps_per_epoch,
        } | (self._schedule_flags if self.schedule_source is not None else {})

    @property
    def _schedule_flags(self) -> dict[str, object]:
        """What the flags of a schedule became that a checkpoint holds."""
        along = self.schedule or Schedule()
        return {"schedule": along.shape, "warmup_steps": along.warmup * along.every, "total_steps": along.end}

    def of_layer(self, name: str) -> Training:
        """The same as one layer is trained, by the optimizer that moves it and with the settings of its group."""
        own = self.rules.get(name)
        if own is None:
            return self
        if own.rule is None or own.name == self.optimizer:
            return replace(self, **_settings(own))
        decoupled = own.rule.decay in ("decoupled", "rescaled")
        return replace(self, optimizer=own.rule.name, decoupled=decoupled, **_settings(own))


def find_training(
    checkpoints: Sequence[Checkpoint],
    names: Sequence[str],
    given: Given,
    declared: Declared,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    steps_per_epoch: int | None = None,
    decoupled: bool = False,
    schedule: RunSchedule | None = None,
) -> Training:
    """The settings of a run's layers; what was given wins over the optimizer's state, that over what is declared.

    `shapes`: the trainable tensors by the checkpoint's names, where a model is given. `steps_per_epoch` and
    `decoupled`, a decay that goes past the gradient where the rule's own is coupled, are given too; `schedule` is how
    the rate goes. Raises UsageError where no rule is known.
    """
    along = schedule or RunSchedule()
    run = run_settings(checkpoints, names, given, declared.optimizer, shapes)
    if run.name is None:
        raise UsageError(
            "No optimizer is known: the checkpoint holds no state of one, and none was named.",
            f"{NAME_IT}. Give --lr and --weight-decay too.",
        )
    rule = run.optimizer.rule
    rates = {layer: _Rates.of(run, layer, along, list(map(updates_made, checkpoints))) for layer in names}
    gaps = [found.gap for found in rates.values() if found.gap is not None]
    return Training(
        optimizer=run.name,
        **_settings(run.optimizer),
        decoupled=rule is not None and (rule.decay in ("decoupled", "rescaled") or (decoupled and rule.may_decouple)),
        rates={layer: found.at for layer, found in rates.items()},
        decays={layer: run.decay(layer) for layer in names},
        steps_per_epoch=steps_per_epoch or declared.steps_per_epoch,
        notes=(*run.notes, *along.notes),
        rules={layer: run.optimizer_of(layer) for layer in names},
        never_updated=run.found[-1].never_updated,
        slots=run.found[-1].slots,
        schedule=along.schedule,
        schedule_source=along.source,
        schedule_doubt=along.doubt,
        schedule_gap=max(gaps, default=None),
        peaks={layer: found.peak for layer, found in rates.items()},
    )


@dataclass(frozen=True)
class _Rates:
    """The rates of one layer along a run."""

    at: tuple[float | None, ...]
    """At each checkpoint."""
    peak: float | None
    gap: float | None
    """Largest distance of the saved ones from the schedule, in shares of the peak."""

    @classmethod
    def of(cls, run: RunSettings, layer: str, along: RunSchedule, steps: Sequence[int | None]) -> _Rates:
        """Those of a group as saved, else as the schedule has them for its peak.

        The peak is given, else the group's max_lr (torch's one cycle) or initial_lr, else what explains its last rate.
        """
        saved, schedule = run.rates(layer), along.schedule
        if schedule is None:
            return cls(saved, saved[-1], None)
        factors = [None if step is None else schedule.rate_factor(step) for step in steps]
        settings = run.found[-1].of(layer)
        told = first_known(settings.get("max_lr") if schedule.points else None, settings.get("initial_lr"))
        given = run.given.learning_rate
        if schedule == Schedule(total=schedule.total):
            return cls(saved, saved[-1], None)
        explained = saved[-1] / factors[-1] if saved[-1] and factors[-1] and settings.get("lr") is not None else None
        peak = first_known(given, told, explained, run.declared.learning_rate, along.peak)
        planned = tuple(None if peak is None or factor is None else peak * factor for factor in factors)
        if given is not None or settings.get("lr") is None:
            return cls(planned, peak, None)
        gaps = [
            min(abs(rate / peak - schedule.rate_factor(max(step - late, 0))) for late in (0, 1))
            for rate, step in zip(saved, steps, strict=True)
            if rate is not None and step is not None and peak
        ]
        kept = tuple(first_known(rate, plan) for rate, plan in zip(saved, planned, strict=True))
        return cls(kept, peak, max(gaps, default=None))


def _settings(optimizer: Optimizer) -> dict[str, Any]:
    """The fields of a Training that the settings of a rule make."""
    title = optimizer.rule.title if optimizer.rule is not None else optimizer.name
    variant = f"{title} with a clipped trust ratio" if optimizer.trust_clip else None
    momentum = optimizer.momentum if optimizer.has("momentum") else None
    return {
        "gains": momentum_gains(momentum or 0.0, optimizer.dampening, optimizer.nesterov),
        "momentum": momentum,
        "nesterov": optimizer.nesterov,
        "betas": optimizer.betas if optimizer.has("betas") else None,
        "trust": optimizer.trust_coefficient,
        "clipped": optimizer.trust_clip,
        "variant": "AMSGrad" if optimizer.amsgrad else variant,
    }
