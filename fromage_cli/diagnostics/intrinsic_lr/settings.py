"""How a run is trained: rule, rates and decays by layer – given, found in the optimizer's state, or declared beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.runs.layer_settings import run_settings
from fromage_cli.errors import UsageError
from fromage_cli.optimizers.rule import RULES, Rule
from fromage_cli.optimizers.settings import Given, Optimizer
from fromage_cli.terminal.optimizer_options import spelled
from fromage_cli.theory.equilibrium import Gains, momentum_gains

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
        }

    def of_layer(self, name: str) -> Training:
        """The same as one layer is trained, with the settings of its group."""
        return replace(self, **_settings(self.rules[name])) if name in self.rules else self


def find_training(
    checkpoints: Sequence[Checkpoint],
    names: Sequence[str],
    given: Given,
    declared: Declared,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    steps_per_epoch: int | None = None,
    decoupled: bool = False,
) -> Training:
    """The settings of a run's layers; what was given wins over the optimizer's state, that over what is declared.

    `shapes`: the trainable tensors by the checkpoint's names, where a model tells. `steps_per_epoch` and `decoupled`, a
    decay that goes past the gradient where the rule's own is coupled, are given too. Raises UsageError where no rule is
    known.
    """
    run = run_settings(checkpoints, names, given, declared.optimizer, shapes)
    if run.name is None:
        raise UsageError(
            "No optimizer is known: the checkpoint holds no state of one, and none was named.",
            "Give --optimizer and --lr, and --weight-decay.",
        )
    rule = run.optimizer.rule
    return Training(
        optimizer=run.name,
        **_settings(run.optimizer),
        decoupled=rule is not None and (rule.decay in ("decoupled", "rescaled") or (decoupled and rule.may_decouple)),
        rates={layer: run.rates(layer) for layer in names},
        decays={layer: run.decay(layer) for layer in names},
        steps_per_epoch=steps_per_epoch or declared.steps_per_epoch,
        notes=run.notes,
        rules={layer: run.optimizer_of(layer) for layer in names},
    )


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
